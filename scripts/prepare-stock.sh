#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# prepare-stock.sh [--headers-only] [RELEASE]: gets a Debian kernel and prepares a tree that modules for it can be built on;
# prints the directory: vmlinuz, modules/, build/, release. RELEASE (or KERNEL) is a name such as 7.2.12+deb13-amd64, or
# its beginning; without it, the newest kernel in kernel/tested-stock that the archive still has, else the newest from
# 7.2 on. --headers-only takes one whose binary package is not published (yet): it can be built for, not booted.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

scripts=$MIRAGE_SRC/scripts
carrier=linux-binary
if [ "${1:-}" = --headers-only ]; then
	carrier=linux-headers
	shift
fi
wanted=${1:-${KERNEL:-}}

# "RELEASE VERSION" of every kernel in the archive for which the source package of the same version is there too.
archive() {
	local release version
	"$scripts/get-deb.sh" --list 'linux-source-7.*' >"$MIRAGE_CACHE/kernel/sources.list"
	"$scripts/get-deb.sh" --list "$carrier-7[.].*[+]deb.*-amd64" | sed "s/^$carrier-//" | grep -vE -- '-(cloud|rt)-' |
		while read -r release version; do
			if grep -qxF "linux-source-$(series "$release") $version" "$MIRAGE_CACHE/kernel/sources.list"; then
				echo "$release $version"
			fi
		done | sort -V
}

series() { echo "$1" | cut -d. -f1-2; }

choose() { # prints "RELEASE VERSION"
	local all tested
	all=$(archive)
	if [ -n "$wanted" ]; then
		# the dot after a prefix keeps 7.2.1 from meaning 7.2.12
		awk -v w="$wanted" '$1 == w || index($1, w "+") == 1 || index($1, w ".") == 1' <<<"$all" | tail -n 1 | grep . ||
			die "no $carrier package for '$wanted' whose source is in the archive too; there are: $(cut -d' ' -f1 <<<"$all" | xargs)"
		return
	fi
	tested=$(grep -v '^#' "$MIRAGE_SRC/kernel/tested-stock" | sort -V)
	awk 'NR == FNR { ok[$1] = 1; next } $1 in ok' <(echo "$tested") <(echo "$all") | tail -n 1 | grep . && return
	awk '{ split($1, v, "[.]"); if (v[1] > 7 || v[2] >= 2) print }' <<<"$all" | tail -n 1 | grep . ||
		die "the archive has no kernel from 7.2 on"
	say "note: none of the tested kernels is in the archive any more: taking the newest, which is untested"
}

prepare() {
	[ ! -e "$dir/complete" ] || return 0
	rm -rf "$dir"
	mkdir -p "$dir/build" "$dir/package"
	local package deb found src make
	for package in linux-base linux-modules linux-headers $([ "$carrier" = linux-headers ] || echo linux-binary); do
		deb=$("$scripts/get-deb.sh" "$package-$release" "$version")
		found=$(dpkg-deb -f "$deb" Version)
		[ "$found" = "$version" ] || die "$package-$release is version $found, not $version"
		dpkg-deb -x "$deb" "$dir/package"
	done
	src=$("$scripts/kernel-source.sh" "$(series "$release")=$version")

	local headers=$dir/package/usr/src/linux-headers-$release config=$dir/package/usr/lib/modules/$release/config
	make=(make -C "$src" O="$dir/build" CC="$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\).*/\1/p' "$config")" LOCALVERSION="+${release#*+}")
	command -v "${make[4]#CC=}" >/dev/null || die "$release was built with ${make[4]#CC=}, which is not here"
	cp "$config" "$dir/build/.config"
	logged "kernel $release: configuration" "$dir/config.log" "${make[@]}" olddefconfig
	logged "kernel $release: Rust metadata and headers" "$dir/prepare.log" "${make[@]}" -j"$JOBS" prepare modules_prepare
	found=$(cat "$dir/build/include/config/kernel.release")
	[ "$found" = "$release" ] || die "the prepared tree calls itself $found, not $release"
	cp "$headers/Module.symvers" "$dir/build/"

	xz -dc "$dir/package/usr/lib/modules/$release/kernel/drivers/gpu/drm/drm.ko.xz" >"$dir/drm.ko"
	logged "kernel $release: proof of the match" "$dir/match.log" \
		python3 "$scripts/prove-match.py" --tree "$dir/build" --config "$config" "$headers/.config" --symvers "$headers/Module.symvers" \
		--vmlinux "$headers/vmlinux" --drm "$dir/drm.ko" --lists "$MIRAGE_SRC/kernel" -- make -C "$dir/build" "${make[@]:4}" ||
		{ grep '^no match' "$dir/match.log" >&2; die "the prepared tree does not match the kernel $release: nothing is built on it"; }
	rm "$dir/drm.ko"
	[ "$carrier" = linux-headers ] || mv "$dir/package/usr/lib/modules/$release/vmlinuz" "$dir/vmlinuz"
	mkdir -p "$dir/modules/lib/modules"
	mv "$dir/package/usr/lib/modules/$release" "$dir/modules/lib/modules/"
	depmod -b "$dir/modules" "$release"
	echo "$release" >"$dir/release"
	rm -rf "$dir/package"
	touch "$dir/complete"
}

mkdir -p "$MIRAGE_CACHE/kernel"
# The choice is remembered: the archive is asked again when the question or the list of tested kernels changes.
choice=$MIRAGE_CACHE/kernel/choice-$( (echo "$carrier $wanted"; cat "$MIRAGE_SRC/kernel/tested-stock") | key)
[ -s "$choice" ] || { choose >"$choice.tmp" && mv "$choice.tmp" "$choice"; } || exit 1
read -r release version <"$choice"
dir=$MIRAGE_CACHE/kernel/${carrier#linux-}-$version
[ -e "$dir/complete" ] || with_lock "${dir##*/}" prepare
echo "$dir"
