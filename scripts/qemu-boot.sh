#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# The one way into the guest; scripts/qemu-boot.sh --help says how, docs/testing.md says more. This part finds the kernel
# and enters the builder root, scripts/boot.py does the work.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

kernel=stock
options=() binds=()
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) kernel=${2:-}; shift 2 ;;
	--overlay)
		[ -d "${2:-}" ] || die "--overlay: no directory '${2:-}'"
		binds+=(--bind "$2")
		options+=(--overlay "$(realpath "$2")")
		shift 2
		;;
	--) break ;;
	*) options+=("$1"); shift ;;
	esac
done
case " ${options[*]} " in
*" --help "* | *" -h "*) kernel=none ;;
esac
case $kernel in
stock) dir=$("$MIRAGE_SRC/scripts/prepare-stock.sh") || exit 245 ;;
debug) dir=$("$MIRAGE_SRC/scripts/build-debug-kernel.sh") || exit 245 ;;
none) dir=/ ;;
*) die "--kernel takes stock or debug, not '$kernel'" ;;
esac
exec "$MIRAGE_SRC/scripts/in-root.sh" "${binds[@]}" --dir / "$MIRAGE_SRC/scripts/boot.py" --kernel-dir "$dir" "${options[@]}" "$@"
