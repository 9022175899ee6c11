#!/bin/sh
# Edge Agent @VERSION@ (@VARIANT@) for Linux on @MACHINE@: run this file as root to install, 'sh FILE --help' says more.
# Nothing runs before the whole file was checked: the script is one function, which the last line calls.
main() {
  umask 022
  size=@SIZE@ skip=@SKIP@ payload_sha256=@PAYLOAD_SHA256@
  header_sha256=@HEADER_SHA256@
  if [ ! -f "$0" ]; then
    fail 2 "this installer was not started from its file" "Save it, then: sh edge-agent-@VERSION@-linux-@MACHINE@.run"
  fi
  have=$(wc -c <"$0")
  if [ "$have" -ne $((skip + size)) ]; then
    fail 5 "$0 is damaged: it has $have bytes instead of $((skip + size)); nothing was run" "Copy it again."
  fi
  if [ "$(head -c "$skip" -- "$0" | grep -v '^  header_sha256=' | digest)" != "$header_sha256" ] ||
    [ "$(tail -c +$((skip + 1)) -- "$0" | digest)" != "$payload_sha256" ]; then
    fail 5 "$0 is damaged: its sha256 is wrong; nothing was run" "Copy it again."
  fi
  if [ "$(uname -s) $(uname -m)" != "Linux @MACHINE@" ]; then
    fail 3 "this installer is for Linux on @MACHINE@, this machine is $(uname -s) on $(uname -m)" "Fetch the right one."
  fi
  find_python
  remove_leftovers "${TMPDIR:-/var/tmp}"
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/edge-agent-setup.$$.XXXXXX") || fail 3 "cannot write to ${TMPDIR:-/var/tmp}" "Set TMPDIR."
  trap 'rm -rf -- "$work"' EXIT
  trap 'exit 130' INT TERM HUP
  if ! tail -c +$((skip + 1)) -- "$0" | tar -x -o -C "$work" -f - common "python$version" 2>"$work/errors"; then
    fail 3 "cannot unpack $0 into $work: $(tail -n 1 "$work/errors")" "Free some space there, or set TMPDIR to another folder."
  fi
  "$python" -I "$work/common/setup.pyz" --payload "$work" "$@"
}

# remove_leftovers FOLDER: removes the folders of killed installers, whose process id is in the name.
remove_leftovers() {
  for left in "$1"/edge-agent-setup.*.*; do
    owner=${left#"$1/edge-agent-setup."}
    if [ -d "$left" ] && [ ! -L "$left" ] && [ ! -d "/proc/${owner%%.*}" ]; then rm -rf -- "$left"; fi
  done
}

digest() { sha256sum | cut -d ' ' -f 1; }

fail() {
  printf 'error: %s\nwhat to do: %s\n' "$2" "$3" >&2
  exit "$1"
}

# find_python: sets python and version. The system's Python comes first, because it gets the distribution's security updates.
find_python() {
  seen=''
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- /usr/bin/python3 python3 python3.13 python3.12 python3.11; fi
  for python; do
    python=$(command -v "$python") || continue
    version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case " @PYTHONS@ " in
      *" $version "*)
        "$python" -I -c 'import venv, ctypes, ssl, lzma' 2>/dev/null && return
        seen="$seen $python ($version, without parts of its standard library)" ;;
      *) seen="$seen $python ($version)" ;;
    esac
  done
  fail 3 "no Python that this installer has packages for (@PYTHONS@) was found; looked at:${seen:- nothing}" \
    "Debian, Ubuntu: apt-get install python3; or name another one: PYTHON=/path/to/python3.13 sh '$0'"
}
main "$@"; exit
