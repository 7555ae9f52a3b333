# Makes what the platform needs in its store; what is there already stays as it is.
set -eu
here=$(dirname "$0")

until mc --quiet alias set store "$ENDPOINT" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" >/dev/null; do
  echo "waits for $ENDPOINT"
  sleep 2
done

user() { # NAME PASSWORD POLICY
  mc admin policy create store "$3" "$here/${3#telellm-}.json"
  mc admin user add store "$1" "$2"
  has=$(mc admin user info --json store "$1")
  case $has in
    *"\"policyName\":\"$3\""*) ;;
    *) mc admin policy attach store "$3" --user "$1" ;;
  esac
}

lifecycle() { # BUCKET FILE
  if grep -q '"ID"' "$here/$2"; then
    mc ilm import "store/$1" <"$here/$2"
  elif mc ilm rule ls "store/$1" >/dev/null 2>&1; then
    mc ilm rule rm --all --force "store/$1"
  fi
}

for bucket in "$BUCKET" "$PIPELINES_BUCKET" $SOURCE_BUCKETS; do
  mc mb --ignore-existing "store/$bucket"
done
mc version enable --excluded-prefixes "$(cat "$here/unversioned")" "store/$BUCKET"
lifecycle "$BUCKET" lifecycle.json
lifecycle "$PIPELINES_BUCKET" pipelines-lifecycle.json
user "$STAGES_USER" "$STAGES_PASSWORD" telellm-stages
user "$PIPELINES_USER" "$PIPELINES_PASSWORD" telellm-pipelines
echo "buckets $BUCKET, $PIPELINES_BUCKET $SOURCE_BUCKETS, users and rules are there"
