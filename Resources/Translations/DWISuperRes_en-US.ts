<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" sourcelanguage="en_US" language="en_US">
  <context>
    <name>DWISuperRes</name>
    <message>
      <source>DWI Super-Resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Super-resolves diffusion-weighted MRI within the slice, and shows what that does to the microstructure: FA and QA before and after, their differences, statistics and plots. Choose a scan, a model and a scale factor, and press Apply; the computation runs beside 3D Slicer. The README of the extension has a tutorial with sample data and a list of known problems.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Results are for research and must not be used for diagnosis.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Diffusion-weighted NIfTI</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Input</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>1. Input</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Input DWI:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Input DWI</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The diffusion-weighted scan to super-resolve.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>vtkMRMLDiffusionWeightedVolumeNode</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Select a DWI volume</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Load DWI from a file</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Load a scan from NRRD, NHDR or NIfTI; .bval and .bvec lie beside a NIfTI file or are asked for.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Load DWI...</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>About the input</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Model</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>2. Model</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Model:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Checkpoints that come with the module, and those you browsed to.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Browse for a model file</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Choose a checkpoint file (.safetensors).</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Browse...</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>About the model</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Scale factor:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scale factor</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>How many times finer the voxels become, within the slice unless it says otherwise; only what the model was trained for.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Guide:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Guide</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>T1w, T2w, FLAIR or another image that lies on the scan: this model was trained with one.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>vtkMRMLScalarVolumeNode</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Select a registered image</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Warnings about the model</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>About this model</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>What the model was trained on, how it was judged, and under which licence it comes.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>All about the model</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Advanced</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Device:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Device</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>What computes; Automatic takes a GPU that works, else the processor.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Precision:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Precision</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Bits of the network's arithmetic; Automatic is right nearly always.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Slice a&amp;xis:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Slice axis</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Voxel axis (i, j or k) across the slices, where the image header misleads.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Ensemble over flips and rotations</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Slightly better, eight times slower.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Data consistency</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Makes the result, at the input's resolution, equal the input.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Data &amp;consistency</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Begin at native resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Takes a scan that was interpolated before down to the matrix it holds; the scale factor counts from there.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Be&amp;gin at native resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Make an uncertainty map</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Also makes a volume of standard deviations over flips and rotations, in units of the signal; eight times slower.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Uncertainty map</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Super-resolve</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>3. Super-resolve</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Output DWI:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Output DWI</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Where the result goes; a new volume beside the input, or one to overwrite.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Create new volume</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Apply or cancel super-resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Super-resolve the input. You can go on working meanwhile.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Apply</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Progress of super-resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>How far the computation is, in percent; the time left stands below.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Status of super-resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Show uncertainty over the slices</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Lay the standard deviation over flips and rotations (in units of the signal) over the slice views; needs a result that was made with an uncertainty map.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Show uncertaint&amp;y over the slices</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Several scans</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The same settings for many scans, one after another.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scans of:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scans to apply to</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>All DWI volumes of the scene, or those of one folder, patient or study of the Data module; results of super-resolution are left out.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Apply to all of these scans</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Super-resolve these scans one after another, each into a new volume beside it; a scan that fails does not stop the others.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Apply to all of them</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Compare</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>4. Compare</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Reference:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Reference volume</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>What the test volume is compared with: the ground truth, or the scan before super-resolution.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>&amp;Test:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Test volume</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The volume to judge, usually the super-resolved one.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Mas&amp;k:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Mask</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Voxels to compare: a label map on the reference's grid, or a segmentation.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>vtkMRMLLabelMapVolumeNode</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>vtkMRMLSegmentationNode</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Automatic</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Maps:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Maps to compute</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The maps to compute and compare; diffusivities are in mm²/s, FA and GFA run from 0 to 1.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Compare or cancel</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Compute the maps of both volumes, and show them, their differences and statistics.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Com&amp;pare</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Progress of the comparison</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Status of the comparison</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Sho&amp;w map:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Map shown</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The map in the slice views and plots.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Chart shown</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>How the agreement of both volumes is plotted.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Test over reference:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Opacity of the test map over the reference, in percent</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Opacity in percent of the test map over the reference map in the first view: 0 shows the reference, 100 the test.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Flicker between reference and test</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Show reference and test in turn in the first view, twice a second: what jumps is different.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Flicker</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Warnings about the comparison</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Export folder:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Folder to export to</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Folder for maps (NIfTI), statistics.tsv and report.html; files of these names are replaced.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Export the comparison</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Write the maps, the statistics table and the HTML report.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Export</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Simulate low resolution from the reference</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scale:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scale of the simulated low resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>How much coarser the voxels become: a factor within the slice (2 or 2.5), or one for each voxel axis (1x1x3: three times thicker slices).</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Degradation:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Degradation</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>How the low resolution comes about.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>SNR:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Signal-to-noise ratio of the simulation</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Ratio of the mean b0 signal to the standard deviation of the Rician noise that is added; it has no unit, and 0 adds none.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>no added noise</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Simulate or cancel</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Make a low-resolution scan of the reference and choose it as the input, so the result can be compared with the truth.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Simulate low resolutio&amp;n</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.batch</name>
    <message>
      <source>Scan {n} of {total} ({name}): {message}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The computation failed.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.choices</name>
    <message>
      <source>Colour FA</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>principal direction: red left-right, green front-back, blue up-down, as bright as FA is high</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>K-space truncation (as a scanner does)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Gaussian blur</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Averaging of voxels</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Cubic interpolation (published method)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Thick slices (k-space truncation within them)</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.compare_section</name>
    <message>
      <source>Export</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Wrote {n} files to {folder}.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.dependencies</name>
    <message>
      <source>some files are missing</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Super-resolution needs Python packages that are not installed yet:</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>- PyTorch, runs the networks (about 0.3 GB; 3 GB with support for NVIDIA GPUs)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>- {names}, for reading files and for diffusion maps (about 0.2 GB)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>They are installed into this 3D Slicer; this takes some minutes and needs an internet connection.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Such files need Python packages: {names} (about 5 MB). Install them now?</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Python packages are missing; press Apply once in the module DWISuperRes of 3D Slicer with a window.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The Python packages were not installed, so nothing was computed.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The extension PyTorch is not installed; install it in the Extensions Manager, restart 3D Slicer and press Apply again.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch was not installed, so nothing was computed.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{names} could not be installed; see the Python console for pip's messages.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>open the module PyTorch Utils, press Uninstall PyTorch, restart 3D Slicer and press Apply again (on Windows, first install 3D Slicer in a short folder such as C:\Slicer)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch is not installed; press Apply again to install it.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch is only partly installed ({reason}); {again}.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} on the processor</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} on {name}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} on the Apple GPU</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} on the processor, since it does not work with this GPU ({reason})</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} does not work with this GPU ({reason}); choose the device CPU, or {again}.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>This GPU computes wrong numbers with PyTorch {version}; choose the device CPU.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} is built for processors only; choose the device CPU.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>PyTorch {version} is built for CUDA {cuda} and finds no GPU it can use; update the NVIDIA driver, or choose the device CPU.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>pip ended with code {n}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{names} could not be installed ({reason}); check the internet connection and the proxy, then try again.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.export</name>
    <message>
      <source>There is nothing to export yet; compare two volumes first.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The folder {folder} does not exist; choose where to export to.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.file_io</name>
    <message>
      <source>{name} has fewer than {n} volumes: 3D Slicer loses its gradient table when it is saved as NRRD.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{name} is saved, but a scene file finds it only as NRRD: save it so, too, if you save the scene.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Gradient directions cannot follow the transform of a scan; export it without hardening transforms.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.input_section</name>
    <message>
      <source>Load or select a diffusion-weighted volume.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Load DWI</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Diffusion-weighted images (*.nrrd *.nhdr *.nii *.nii.gz);;All files (*)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{kind} file of {name}</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.job</name>
    <message>
      <source>Cancelled; nothing was changed.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The computation failed.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The result could not be taken into the scene: {error}.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Python could not be started for the computation ({error}); install 3D Slicer again.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The disk that holds {folder} is full; free some space and try again.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The computation was ended by the system, most often because memory ran out; close other scans and programs, or crop the scan first.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>A Python package is missing or damaged (see the details); install it and restart 3D Slicer.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The computation ended without a result ({code}); see the details, and report them if this recurs.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>signal {n}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>code {n}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>No temporary folder can be made in {folder} ({reason}); choose another in Edit &gt; Application Settings &gt; General, or free some space.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The disk that holds {folder} has {free} GB free and about {needed} GB are needed; free some space or choose another temporary folder.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.logic</name>
    <message>
      <source>There is no scan to super-resolve; load diffusion-weighted volumes first.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>There is no input; choose a diffusion-weighted volume.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scan} SR x{scale}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>There is no scan to simulate from; choose a reference volume.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scan} low resolution x{scale}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>A comparison needs two volumes; choose the reference and the test volume.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Reference and test are both {name}; choose two different volumes.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Another computation is running; wait for it or cancel it first.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.model_card</name>
    <message>
      <source>×{factor} isotropic</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>×{factor} across the slices</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scales} and all between</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scales} finer voxels</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>held out: {name} {score}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scale factors</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Guide</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>needs a registered image, such as a T1w</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Trained on</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Low resolution by</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Held-out scores</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Loss</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Licence</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>in-plane voxel size</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>slice thickness</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>b-value</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The {what} of this scan ({found}) lies outside of what the model was trained on ({trained}).</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{low} to {high} {unit}</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.model_section</name>
    <message>
      <source>This is a checkpoint for {task}; choose one for super-resolution.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Checkpoints (*.safetensors);;All files (*)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Choose a checkpoint</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.parameters</name>
    <message>
      <source>Automatic</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>CPU</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>NVIDIA GPU (CUDA)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Apple GPU (MPS)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>32 bit</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>16 bit (bfloat16)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>16 bit (half)</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>From the image header</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scatter plot</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Bland-Altman plot</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>None</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.paths</name>
    <message>
      <source>PythonSlicer was not found beside 3D Slicer; install 3D Slicer again.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.run_control</name>
    <message>
      <source>Starting...</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Cancel</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>End the computation; nothing is changed.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Done.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{m} min {s} s left</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{s} s left</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.run_section</name>
    <message>
      <source>The whole scene</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>gui.sample_data</name>
    <message>
      <source>DWI super-resolution</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>DWI phantom</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.comparison</name>
    <message>
      <source>DWISuperRes report</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>reference</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>test</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>difference</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.layout</name>
    <message>
      <source>Ref</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Test</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Diff</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Agreement</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Histogram</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Statistics</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.masks</name>
    <message>
      <source>The mask {mask} {found} does not lie on the grid of {scan} {expected}; resample it, or use a segmentation, which is resampled by itself.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The mask {mask} is empty; draw it first or choose the automatic mask.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{mask} shows no segment; make one visible or choose another mask.</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.nodes</name>
    <message>
      <source>DWISuperRes comparison</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.plots</name>
    <message>
      <source>DWISuperRes statistics</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scatter</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Scatter line</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>voxels</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>identity</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{map}: test against reference</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>reference</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>test</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>bias</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>lower limit</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>upper limit</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Bland-Altman</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Bland-Altman lines</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{map}: Bland-Altman</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>mean of both</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>test − reference</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Histogram</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{map}: distribution in the mask</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.results</name>
    <message>
      <source>{scan} self-checks</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>check</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>value</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>limit</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>verdict</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>warning</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>passed</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>advice</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scan} uncertainty</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>standard deviation (signal)</source>
      <translation type="unfinished" />
    </message>
  </context>
  <context>
    <name>mrml.volumes</name>
    <message>
      <source>{volume} has {n} components; choose a volume of one, such as a T1w.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The transform of {volume} is not linear; harden it, and choose the result.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scan} has {n} volumes, and Slicer's NRRD files keep a gradient table only from {fewest} volumes on; use the command line dwi-superres for so short a scan.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scan} has no b-values; load the scan again with its gradient table.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{scan} could not be written to {path}; check that the disk has space.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>The result {path} is not a DWI of {n} volumes; please report this.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{n} at b = {b}</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{matrix} voxels of {sizes} mm; {n} volumes: {shells} s/mm²; {directions} directions</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>{volume} holds no image; choose another volume.</source>
      <translation type="unfinished" />
    </message>
    <message>
      <source>Slicer rejected the gradient table of {scan}; please report this scan.</source>
      <translation type="unfinished" />
    </message>
  </context>
</TS>
