#!/usr/bin/env bash
# Load this bundle's images into a registry, after checking every file.
#
#   ./load.sh REGISTRY[/FOLDER]
#
# Docker must be logged in there. The chart then finds them with `--set global.imageRegistry=REGISTRY[/FOLDER]`.
set -euo pipefail
cd "$(dirname "$0")"
(($# == 1)) || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
registry=${1%/}
docker=${DOCKER:-docker}

sha256sum --quiet --check SHA256SUMS || { echo "error: the bundle is damaged; copy it again" >&2; exit 1; }
"$docker" load -q -i images.tar >/dev/null
while read -r image; do
  path=$image
  host=${image%%/*}
  [[ $host == *[.:]* && $image == */* ]] && path=${image#*/}
  "$docker" tag "$image" "$registry/$path"
  "$docker" push -q "$registry/$path" >/dev/null
  echo "$registry/$path"
done <images.txt
chart=$(echo telellm-*.tgz)
cat <<END

Now install the chart:
  helm install telellm $chart --namespace telellm --create-namespace --set global.imageRegistry=$registry
Digests of images.* in the values are those of other registries: leave them empty, or take those that this one shows.
END
