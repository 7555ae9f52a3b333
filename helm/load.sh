#!/usr/bin/env bash
# Load this bundle's images into a registry, after checking every file. Python 3.9 or later is needed, and no Docker.
#
#   ./load.sh [http://]REGISTRY[/FOLDER]
#
# Who may push there: REGISTRY_USER and REGISTRY_PASSWORD, or what `docker login` or `podman login` wrote down. A private
# authority: SSL_CERT_FILE=ca.pem. `http://` before the registry: one without TLS. What is there is not sent again.
set -euo pipefail
cd "$(dirname "$0")"
(($# == 1)) || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
registry=${1%/}

damaged() {
  echo "error: the bundle is damaged: $1; copy it again" >&2
  exit 1
}
[[ -z $(grep -nE '^[^ ]+ [ *](/|.*\.\.)' SHA256SUMS) ]] || damaged "SHA256SUMS names files outside of it"
[[ -z $(find . ! -type f ! -type d) ]] || damaged "$(find . ! -type f ! -type d | head -1) is no file"
[[ $(find . -type f ! -name SHA256SUMS -printf '%P\n' | sort) == "$(cut -c67- SHA256SUMS | sort)" ]] ||
  damaged "its files are not those of SHA256SUMS"
sha256sum --quiet --check SHA256SUMS >&2 || damaged "the files above"
"${PYTHON:-python3}" load.py "$registry"
chart=$(echo telellm-*.tgz)
cat <<END

Now install the chart; images.yaml pins what was loaded:
  helm install telellm $chart --namespace telellm --create-namespace -f images.yaml --set global.imageRegistry=${registry#*://}
END
