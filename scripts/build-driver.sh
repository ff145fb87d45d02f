#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# build-driver.sh stock|debug|KDIR [MAKE ARGUMENT...]: builds mirage.ko on the Debian kernel's prepared tree, on the debug
# kernel or on any prepared tree, and prints its path. All objects go to the cache, so the source tree may be read-only.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ $# -ge 1 ] || die "usage: build-driver.sh stock|debug|KDIR [MAKE ARGUMENT...]"

if [ -z "${MIRAGE_INSIDE:-}" ]; then
	binds=()
	case $1 in
	stock | debug) tree=$1 ;;
	*)
		[ -d "$1" ] || die "no directory $1"
		tree=$(realpath "$1")
		binds=(--bind "$tree")
		;;
	esac
	exec "$MIRAGE_SRC/scripts/in-root.sh" "${binds[@]}" "$0" "$tree" "${@:2}"
fi

case $1 in
stock) dir=$("$MIRAGE_SRC/scripts/prepare-stock.sh") kdir=$dir/build name=${dir##*/} ;;
debug) dir=$("$MIRAGE_SRC/scripts/build-debug-kernel.sh") kdir=$dir/build name=${dir##*/} ;;
*) kdir=$1 name=tree-$(echo "$1" | key) ;;
esac
shift
out=$MIRAGE_STATE/module/$name

QUIET=1 "$MIRAGE_SRC/scripts/check-kernel.sh" "$kdir"
args=(-C "$kdir" M="$MIRAGE_SRC" MO="$out" -j"$JOBS" "$(kernel_compiler "$kdir")")
# A build with other tools (clippy) beside the plain one
out=$out${MIRAGE_VARIANT:+-$MIRAGE_VARIANT}
mkdir -p "$out"
build() {
	logged "driver for $(cat "$kdir/include/config/kernel.release")" "$out/build.log" make "${args[@]}" modules "$@"
	grep -E '(^|: )(warning|WARNING):' "$out/build.log" >&2 || true
}
with_lock "module-$(echo "$out" | key)" build "$@"
[ -e "$out/mirage.ko" ] || die "kbuild made no $out/mirage.ko: $out/build.log"
echo "$out/mirage.ko"
