#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# get-deb.sh PACKAGE [VERSION]: fetches a package (not its dependencies) into the cache and prints the file.
# get-deb.sh --version PACKAGE: newest version that the cache or, failing that, the archive has.
# get-deb.sh --list REGEX: "PACKAGE VERSION" lines of what the archive has.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "${MIRAGE_INSIDE:-}" ] || exec "$MIRAGE_SRC/scripts/in-root.sh" "$0" "$@"

debs=$MIRAGE_CACHE/deb
mkdir -p "$debs"

apt() {
	apt-get -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root "$@"
}

# The lists that the root was made with are good until a package in them is gone.
update() {
	apt -qq update >&2 || die "apt-get update failed: is there a network?"
}

# file names carry the version with ":" as %3a; take it from the package itself
cached() { # PACKAGE VERSION
	find "$debs" -maxdepth 1 -name "$1_${2//:/%3a}_*.deb" | sort -V | tail -n 1
}

case $1 in
--version)
	found=$(cached "$2" '*')
	if [ -n "$found" ]; then
		dpkg-deb -f "$found" Version
	else
		apt-cache madison "$2" | awk '{ print $3; exit }' | grep . || { update; apt-cache madison "$2" | awk '{ print $3; exit }' | grep .; } ||
			die "the archive has no $2"
	fi
	exit
	;;
--list)
	apt-cache dumpavail | awk -v re="^($2)\$" '/^Package: / { p = $2 } /^Version: / && p ~ re { print p, $2 }' | sort -u
	exit
	;;
esac

package=$1 version=${2:-}
[ -n "$version" ] || version=$("$0" --version "$package")
found=$(cached "$package" "$version")
if [ -z "$found" ]; then
	tmp=$(mktemp -d "$debs/.get.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	cd "$tmp"
	apt -q download "$package=$version" >&2 || { update; apt -q download "$package=$version" >&2; } ||
		die "the archive does not have $package $version any more"
	mv ./*.deb "$debs/"
	found=$(cached "$package" "$version")
fi
echo "$found"
