#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# check-kernel.sh KDIR: says whether mirage.ko can be built on the kernel tree KDIR, and if not, everything that is missing.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ $# = 1 ] || die "usage: check-kernel.sh KDIR"
[ -n "${MIRAGE_INSIDE:-}" ] || { [ -d "$1" ] || die "no directory $1"; exec "$MIRAGE_SRC/scripts/in-root.sh" --bind "$1" "$0" "$(realpath "$1")"; }

kdir=$1
bad=0
missing() {
	say "$kdir: $*"
	bad=1
}

[ -e "$kdir/Makefile" ] || die "$kdir is no kernel tree: it has no Makefile"
[ -e "$kdir/.config" ] || die "$kdir is not configured: it has no .config"
set_to() { sed -n "s/^$1=//p" "$kdir/.config" | tr -d '"'; }

release=$(cat "$kdir/include/config/kernel.release" 2>/dev/null || true)
if [ -z "$release" ]; then
	missing "is configured but not prepared: run 'make modules_prepare' in it"
else
	IFS=. read -r major minor _ <<<"$release"
	minor=${minor%%[!0-9]*}
	[ "$major" -gt 7 ] || { [ "$major" = 7 ] && [ "$minor" -ge 2 ]; } || missing "is Linux $release; Mirage takes 7.2 or later"
fi

option() { # NAME WHY
	case $(set_to "CONFIG_$1") in
	y | m) ;;
	*) missing "has no CONFIG_$1: $2" ;;
	esac
}
option MODULES "modules cannot be loaded"
option RUST "the driver is written in Rust"
option PCI "the GPU is a PCI device"
option PCI_MSI "the GPU interrupts by MSI-X"
option DRM "the driver is a DRM driver"
option MMU_NOTIFIER "the driver has to hear of every change of a mapping"
option HMM_MIRROR "the driver mirrors page tables (no prompt: CONFIG_TEST_HMM=m or another user of HMM selects it)"
option DEVICE_PRIVATE "pages can live in the GPU's memory"
option GPU_BUDDY "the GPU's memory is allocated with it (no prompt: CONFIG_GPU_BUDDY_KUNIT_TEST=m or another user selects it)"
option TRANSPARENT_HUGEPAGE "large pages are mirrored as such"

if [ -n "$(set_to CONFIG_RUST)" ]; then
	for file in libcore.rmeta libffi.rmeta libbindings.rmeta libuapi.rmeta libkernel.rmeta libpin_init.rmeta libbuild_error.rmeta \
		libmacros.so libpin_init_internal.so; do
		[ -e "$kdir/rust/$file" ] || missing "has no rust/$file: Rust metadata is not in Debian's header packages; scripts/prepare-stock.sh makes a tree that has it"
	done
	wanted=$(set_to CONFIG_RUSTC_VERSION_TEXT)
	have=$(rustc -V 2>/dev/null || echo "no rustc at all")
	[ "$wanted" = "$have" ] || missing "was configured with '$wanted', and this is '$have': metadata of one cannot be read by the other"
	command -v bindgen >/dev/null || missing "needs bindgen, which is not installed"
fi
compiler=$(set_to CONFIG_CC_VERSION_TEXT)
compiler=${compiler%% *}
[ -z "$(set_to CONFIG_CC_IS_CLANG)" ] || compiler=clang
command -v "${compiler:-cc}" >/dev/null || missing "was configured for the compiler $compiler, which is not installed"
[ -e "$kdir/Module.symvers" ] || missing "has no Module.symvers: build the kernel, or copy the file from its headers package"
[ -e "$kdir/scripts/module.lds" ] || missing "has no scripts/module.lds: run 'make modules_prepare' in it"
[ -z "$(set_to CONFIG_OBJTOOL)" ] || [ -x "$kdir/tools/objtool/objtool" ] || missing "has no tools/objtool/objtool: run 'make modules_prepare' in it"

[ "$bad" = 0 ] || die "mirage.ko cannot be built on $kdir"
[ -n "${QUIET:-}" ] || say "$kdir: Linux $release, everything is there"
