#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds mirage.ko for the running kernel of this Debian machine and installs it where modprobe finds it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

release=$(uname -r)
case $release in
7.*+deb*-amd64) ;;
*) die "the running kernel is $release; this installs for Debian's amd64 kernels from 7.2 on (trixie-backports: linux-image-amd64)" ;;
esac
[ -d "/lib/modules/$release" ] || die "no /lib/modules/$release: inside a container the module has nowhere to go"
[ "$(id -u)" = 0 ] || die "installing into /lib/modules needs root"
command -v depmod >/dev/null || die "depmod is missing: apt-get install kmod"
KERNEL=$release "$MIRAGE_SRC/scripts/prepare-stock.sh" >/dev/null
module=$(KERNEL=$release "$MIRAGE_SRC/scripts/build-driver.sh" stock)
install -D -m 644 "$module" "/lib/modules/$release/updates/mirage.ko"
depmod "$release"
echo "installed /lib/modules/$release/updates/mirage.ko; load it with: modprobe mirage"
[ "$(cat /sys/module/module/parameters/sig_enforce 2>/dev/null)" != Y ] ||
	echo "this kernel takes signed modules only (secure boot): sign it with a key of yours, see docs/building.md"
