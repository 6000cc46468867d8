"""What loads when: the package, the help and the list of checkpoints must not wait for heavy libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from DWISuperResLib.io import write_dwi
from DWISuperResLib.phantoms import phantom

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "dipy", "scipy", "matplotlib", "nibabel", "lightning", "rich")
REPORT = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


@pytest.mark.parametrize(
    "statement",
    [
        "import DWISuperResLib; dir(DWISuperResLib)",
        "from DWISuperResLib.apps.cli import main\nmain(['--help'])",
        "from DWISuperResLib.apps.cli import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass",
        "from DWISuperResLib.apps.cli import main\ntry: main(['maps', '--help'])\nexcept SystemExit: pass",
        "from DWISuperResLib.apps.cli import main; main(['checkpoints', 'list', '--progress', 'json'])",
    ],
)
def test_light_work_loads_no_heavy_library(statement):
    result = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{REPORT}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_first_line_comes_before_torch_is_loaded(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    write_dwi(phantom((8, 10, 4), supersampling=1), scan)
    statement = (
        "import sys\n"
        "from DWISuperResLib import progress\nfrom DWISuperResLib.apps import cli\n"
        "class Watch(progress.Reporter):\n"
        "    def status(self, message): print('torch' in sys.modules, file=sys.stderr); sys.exit(0)\n"
        "cli.reporter = lambda mode: Watch()\n"
        f"cli.main(['run', {str(scan)!r}, {str(tmp_path / 'out.nii.gz')!r}])\n"
    )
    result = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "False"
