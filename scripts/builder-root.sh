#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes the builder root, a Debian 13 system in the cache that has every tool, and prints its path. Prints "/" when the
# host is a Debian 13 that has all packages itself. The package mirror, its proxy and certificates are the host's.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

suite=trixie
list=$MIRAGE_SRC/scripts/packages.txt
packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$list"; }

host_has_everything() {
	[ "${MIRAGE_ROOT:-}" != builder ] || return 1
	grep -q '^VERSION_CODENAME=trixie$' /etc/os-release 2>/dev/null || return 1
	local p _
	while read -r p _; do
		dpkg-query -W -f '${db:Status-Abbrev}\n' "$p" 2>/dev/null | grep -q '^ii' || return 1
	done < <(packages)
	qemu-system-x86_64 -device help | grep -q '"vfio-user-pci"'
}

# The mirror that the host takes its own Debian packages from.
mirror() {
	local codename uri
	if [ -n "${MIRAGE_MIRROR:-}" ]; then
		echo "$MIRAGE_MIRROR"
		return
	fi
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk -v c="$codename" '$1 == c || $1 == "stable" { print $2; exit }')
	[ -n "$uri" ] || die "no Debian mirror in this host's apt configuration: set MIRAGE_MIRROR to one (http://HOST/debian)"
	echo "${uri%/}"
}

install_mmdebstrap() {
	command -v mmdebstrap >/dev/null && return
	command -v apt-get >/dev/null || die "mmdebstrap is missing and this is no Debian: install mmdebstrap"
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mmdebstrap >&2 || {
		apt-get -o Acquire::Check-Valid-Until=false update >&2
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mmdebstrap >&2
	} || die "apt-get could not install mmdebstrap"
}

bootstrap() { # bootstrap TMP
	local m backports plain line opts=()
	m=$(mirror)
	plain=$(packages | awk 'NF == 1 { printf "%s%s", s, $1; s = "," }')
	backports=$(packages | awk -v s="$suite-backports" '$2 == s { printf "%s ", $1 }')
	# Proxy, certificates, retries: how the host's apt reaches its mirror is how this one has to.
	while IFS= read -r line; do
		opts+=("--aptopt=$line")
	done < <(apt-config dump 2>/dev/null | grep -iE '^Acquire::(https?|Retries|ForceIPv4|ForceIPv6)(::| )[^"]*"[^"]+"' || true)
	mmdebstrap --variant=apt --include="$plain" --skip=cleanup/apt/lists \
		--aptopt='Acquire::Check-Valid-Until "false"' "${opts[@]}" \
		--customize-hook="chroot \"\$1\" apt-get install -y -t $suite-backports $backports" \
		"$suite" "$1" "deb $m $suite main" "deb $m $suite-backports main"
}

make_root() {
	[ ! -e "$root/.mirage-complete" ] || return 0
	install_mmdebstrap
	# Under the lock nobody else is at work here: what is not complete is what an interrupted run left.
	find "$MIRAGE_CACHE" -maxdepth 1 -name 'root-*.tmp' -exec rm -rf --one-file-system {} +
	# In a mount namespace of its own, so that no mount outlives an interrupted run.
	logged "builder root (Debian 13, $(packages | wc -l) packages)" "$MIRAGE_CACHE/log/builder-root.log" \
		unshare --mount --propagation private "$0" --bootstrap "$root.tmp"
	touch "$root.tmp/.mirage-complete"
	mv "$root.tmp" "$root"
	# Old ones serve nobody once the list has changed, but may be in use by another checkout right now.
	find "$MIRAGE_CACHE" -maxdepth 1 -name 'root-*' ! -path "$root" -mtime +7 -exec rm -rf --one-file-system {} +
}

if [ "${1:-}" = --bootstrap ]; then
	bootstrap "$2"
	exit
fi

root=$MIRAGE_CACHE/root-$( (echo "$suite"; packages) | key)
if [ ! -e "$root/.mirage-complete" ]; then
	if host_has_everything; then
		echo /
		exit
	fi
	[ "$(id -u)" = 0 ] || die "making the builder root needs root: run this as root once, or install scripts/packages.txt on a Debian 13"
	unshare --mount true 2>/dev/null || die "this container may not make mount namespaces: run it with CAP_SYS_ADMIN (docker: --privileged)"
	with_lock builder-root make_root
fi
echo "$root"
