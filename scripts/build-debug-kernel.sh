#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds the debug kernel (kernel/debug.config on Debian's linux-source, LLVM=1) into the cache and prints its directory:
# bzImage, build/ (a tree for modules), release. 10 to 15 minutes on two cores, once for each source, fragment and toolchain.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

series=7.3
fragment=$MIRAGE_SRC/kernel/debug.config

# Every line of the fragment has to hold in the finished configuration.
check_config() { # CONFIG
	local line name bad=0
	while IFS= read -r line; do
		case $line in
		CONFIG_*=*) name=${line%%=*} ;;
		"# CONFIG_"*" is not set") name=${line#\# } name=${name%% *} ;;
		*) continue ;;
		esac
		case $line in
		CONFIG_*) grep -qxF -- "$line" "$1" && continue ;;
		*) ! grep -q "^$name=" "$1" && continue ;;
		esac
		say "$name did not take: kernel/debug.config says '$line', the configuration '$(grep -E "^(# )?${name}[= ]" "$1" || echo nothing)'"
		bad=1
	done <"$fragment"
	[ "$bad" = 0 ] || die "the debug kernel would not be what kernel/debug.config asks for"
}

build() {
	[ ! -e "$dir/complete" ] || return 0
	# Built in place, since a kernel tree knows its own path; "complete" comes last.
	rm -rf "$dir"
	mkdir -p "$dir/build"
	local make=(make -C "$src" O="$dir/build" LLVM=1)
	{
		"${make[@]}" tinyconfig
		"$src/scripts/kconfig/merge_config.sh" -m -O "$dir/build" "$dir/build/.config" "$fragment"
		"${make[@]}" olddefconfig
		"${make[@]}" rustavailable
	} >"$dir/config.log" 2>&1 || { tail "$dir/config.log" >&2; die "configuring the debug kernel failed: $dir/config.log"; }
	check_config "$dir/build/.config"
	logged "debug kernel $version (10 to 15 minutes on two cores)" "$dir/build.log" \
		nice -n "${NICE:-0}" "${make[@]}" -j"$JOBS" bzImage modules
	cp "$dir/build/arch/x86/boot/bzImage" "$dir/vmlinuz"
	cat "$dir/build/include/config/kernel.release" >"$dir/release"
	"${make[@]}" INSTALL_MOD_PATH="$dir/modules" modules_install >"$dir/install.log" 2>&1
	# Objects are not needed to build modules against the tree, and are most of its size.
	find "$dir/build" -name '*.o' ! -path '*/scripts/*' ! -path '*/tools/*' ! -path '*/rust/*' -delete
	find "$dir/build" -maxdepth 1 \( -name '.tmp_vmlinux*' -o -name 'vmlinux.unstripped' \) -delete
	touch "$dir/complete"
}

if [ "${1:-}" = --check-config ]; then
	check_config "$2"
	exit
fi
mkdir -p "$MIRAGE_CACHE/kernel"
src=$("$MIRAGE_SRC/scripts/kernel-source.sh" "$series")
version=${src##*/linux-}
dir=$MIRAGE_CACHE/kernel/debug-$version-$( (echo "recipe 1"; cat "$fragment"; rustc -V; clang -v 2>&1; bindgen -V) | key)
[ -e "$dir/complete" ] || with_lock debug-kernel build
echo "$dir"
