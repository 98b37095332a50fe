#!/bin/sh
# datatrove, data-juicer and rensa in an environment of their own: data.sh FOLDER
# data-juicer comes without its own list of requirements (several GB, torch with CUDA among them); what its text filters, its
# MinHash and its PII mappers import is named here instead. The programs beside this file forbid it to install more by itself.
set -eu
folder=$1
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
echo "data.sh: installing datatrove, data-juicer and rensa into $folder (some minutes, once)"
pip="$folder/bin/python -m pip install --quiet --disable-pip-version-check"
$pip datatrove==0.10.1 spacy==3.8.18 nltk regex "xxhash<4" orjson tokenizers rensa==0.5.0
$pip datasets pyarrow pandas jsonargparse aiohttp scipy pillow beautifulsoup4 tomli zstandard emoji psutil tabulate gitpython wget ray==2.60.0
$pip --no-deps py-data-juicer==1.6.1
touch "$folder/.ready"
