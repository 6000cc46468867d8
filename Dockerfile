# A BIDS App:  docker run --rm -v STUDY:/data:ro -v OUT:/out IMAGE /data /out participant [options]
# On GPUs:     docker build --build-arg TORCH_INDEX= -t dwi-superres .   and   docker run --gpus all ...
FROM python:3.12-slim

# Where PyTorch comes from: its wheels for the CPU, or, left empty, those of PyPI, which bring CUDA along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/dwi-superres
RUN pip install --no-cache-dir torch torchvision ${TORCH_INDEX:+--index-url $TORCH_INDEX}
COPY pyproject.toml README.md LICENSE.txt ./
COPY DWISuperResLib DWISuperResLib
COPY Resources Resources
RUN pip install --no-cache-dir ".[cohort]"

# Whoever runs it: the clusters' containers have no home that can be written to.
ENV MPLCONFIGDIR=/tmp XDG_CACHE_HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
ENTRYPOINT ["dwi-superres", "bids"]
CMD ["--help"]
