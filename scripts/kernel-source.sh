#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# kernel-source.sh SERIES[=PACKAGE VERSION]: unpacks Debian's linux-source-SERIES (the newest, or of that version) into the
# cache and prints the directory, .../linux-VERSION.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

series=${1%%=*}
version=
[ "$series" = "$1" ] || version=${1#*=}

unpack() {
	[ ! -d "$dir" ] || return 0
	local deb tmp=$MIRAGE_CACHE/source/unpack.tmp
	rm -rf "$tmp"
	mkdir -p "$tmp"
	deb=$("$MIRAGE_SRC/scripts/get-deb.sh" "linux-source-$series" "$version")
	# shellcheck disable=SC2016  # expanded by the inner shell
	logged "unpacking linux-source-$series $version" "$MIRAGE_CACHE/log/unpack.log" sh -c '
		set -e
		dpkg-deb --fsys-tarfile "$1" | tar -C "$2" -xf - "./usr/src/linux-source-$3.tar.xz"
		xz -T0 -dc "$2/usr/src/linux-source-$3.tar.xz" | tar -C "$2" -xf -' sh "$deb" "$tmp" "$series"
	mv "$tmp/linux-source-$series" "$dir"
	rm -rf "$tmp"
}

if [ -z "$version" ]; then
	version=$("$MIRAGE_SRC/scripts/get-deb.sh" --version "linux-source-$series")
fi
dir=$MIRAGE_CACHE/source/linux-$version
[ -d "$dir" ] || with_lock kernel-source unpack
echo "$dir"
