#!/usr/bin/env bash
# Write an archive with everything that a site without a way out needs: images, chart, compiled pipelines, lock, checksums
# and the script that loads it there.
#
#   helm/bundle.sh CHART.tgz COMPILED TARGET.tar [IMAGE...]
#
# Without images: all of `helm/images.py`. images/ is an OCI layout, images.yaml are values that pin it. Docker must have
# them or be able to pull them; ours come from `make images`.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# >= 3)) || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
chart=$1 compiled=$2 target=$3
shift 3
docker=${DOCKER:-docker}
python=${PYTHON:-python3}

images=("$@")
((${#images[@]})) || mapfile -t images < <("$python" helm/images.py)
missing=()
for image in "${images[@]}"; do
  "$docker" image inspect "$image" >/dev/null 2>&1 || "$docker" pull -q "$image" >/dev/null 2>&1 || missing+=("$image")
done
if ((${#missing[@]})); then
  printf 'error: these images are neither here nor can they be pulled; build ours with make images:\n' >&2
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi

# by tag: an archive of Docker's knows no digests of registries, and images.yaml has those of what is in here
for image in "${images[@]}"; do
  [[ $image != *@* ]] || "$docker" tag "$image" "${image%@*}"
done
images=("${images[@]%@*}")

name=$(basename "$target" .tar)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$name/pipelines" "$(dirname "$target")"
cp "$chart" helm/load.sh helm/load.py requirements.lock "$work/$name/"
cp "$compiled"/*.yaml "$work/$name/pipelines/"
# all at once: what images share is in it once
"$docker" save "${images[@]}" | "$python" helm/layout.py "$work/$name/images" "${images[@]}" >"$work/$name/images.txt"
"$python" helm/images.py --pins "$work/$name/images.txt" >"$work/$name/images.yaml"
(cd "$work/$name" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs -d '\n' sha256sum >SHA256SUMS)
tar -C "$work" -cf "$target.part" "$name"
mv "$target.part" "$target"
(cd "$(dirname "$target")" && sha256sum "$(basename "$target")" >"$(basename "$target").sha256")
echo "$target: ${#images[@]} images, $(($(stat -c %s "$target") / 1000000)) MB"
