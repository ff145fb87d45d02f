#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds the kernel's software fences as a module for Debian's kernel (the debug kernel has them), and prints a directory with it
# to lay over the guest's root (qemu-boot.sh --overlay): /usr/lib/mirage/sw_sync.ko.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

kdir=$("$MIRAGE_SRC/scripts/prepare-stock.sh")/build
out=$MIRAGE_STATE/sw_sync
mkdir -p "$out/module" "$out/overlay/usr/lib/mirage"
logged "software fences" "$out/build.log" \
	make -C "$kdir" M="$MIRAGE_SRC/kernel/sw_sync" MO="$out/module" -j"$JOBS" "$(kernel_compiler "$kdir")" modules
cp "$out/module/sw_sync.ko" "$out/overlay/usr/lib/mirage/"
echo "$out/overlay"
