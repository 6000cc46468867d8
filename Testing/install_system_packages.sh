#!/bin/sh
# Peers and libraries that pip cannot install: MRtrix3 (oracle for gradients and tensors), what Qt needs to run
# without a display, a browser for the picture of the report. Tests skip, saying why, where these are missing.
missing=""
for package in mrtrix3 libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0 chromium; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not root on a Debian system: without$missing some tests will skip."
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo "The package lists could not be updated; trying with those at hand."
for package in $missing; do
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        echo "The system package $package could not be installed; some tests will skip."
done
