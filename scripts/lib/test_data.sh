# test_data: prints the folder of the real test data (QLORA_TEST_DATA, else ~/.cache/qlora/test-data), after unpacking
# the archives that lie beside the checkout, where they do. Fails where there is no such data: tests then skip.
test_data() {
  local folder=${QLORA_TEST_DATA:-$HOME/.cache/qlora/test-data} archives=$root/../shared/data/unpack.sh
  if [ -f "$archives" ] && ! bash "$archives" "$folder" >/dev/null; then
    say "the test data could not be unpacked into $folder"
  fi
  [ -n "$(ls "$folder" 2>/dev/null)" ] || return 1
  printf '%s\n' "$folder"
}
