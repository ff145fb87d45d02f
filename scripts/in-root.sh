#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# in-root.sh [--bind PATH]... [--dir DIR] CMD...: runs CMD in the builder root, in a mount namespace of its own: nothing stays
# mounted, however it ends. Checkout, cache, /tmp and each PATH are visible where they are on the host. A checkout whose
# path has a space (kbuild cannot take that) is in the cache as well; MIRAGE_SRC says where. CMD keeps this process's id.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

enter() { # runs in the new mount namespace: ROOT, then binds, "--", DIR CMD...
	local root=$1 p
	shift
	bind() { # SOURCE TARGET
		if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}" && touch "$root$2"; fi
		mount --rbind "$1" "$root$2"
	}
	if [ "$root" != / ]; then
		for p in /proc /sys /dev /tmp; do mount --rbind "$p" "$root$p"; done
		mount -t tmpfs -o mode=755 mirage-run "$root/run"
		for p in /etc/resolv.conf /etc/hosts; do
			[ ! -e "$p" ] || bind "$(realpath "$p")" "$p"
		done
		for p in "${SSL_CERT_FILE:-}" "${CURL_CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt; do
			[ -f "$p" ] || continue
			bind "$(realpath "$p")" /etc/ssl/certs/ca-certificates.crt
			break
		done
		bind "$MIRAGE_CACHE" "$MIRAGE_CACHE"
		bind "$MIRAGE_SRC" "$MIRAGE_SRC"
	else
		root=
	fi
	# shellcheck disable=SC2153  # set by lib.sh
	[ "$MIRAGE_SRC_INSIDE" = "$MIRAGE_SRC" ] || bind "$MIRAGE_SRC" "$MIRAGE_SRC_INSIDE"
	for p in "${CARGO_HOME:-$HOME/.cargo}/config.toml" "${CARGO_HOME:-$HOME/.cargo}/config"; do
		[ -f "$p" ] || continue
		bind "$(realpath "$p")" "$MIRAGE_CACHE/cargo/config.toml"
		break
	done
	while [ "$1" != -- ]; do
		[ -z "$root" ] || bind "$1" "$1"
		shift
	done
	shift
	local dir=$1
	shift
	local keep=(TERM="${TERM:-dumb}" LANG=C.UTF-8 HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		MIRAGE_SRC="$MIRAGE_SRC_INSIDE" MIRAGE_CACHE="$MIRAGE_CACHE" MIRAGE_STATE="$MIRAGE_STATE" MIRAGE_INSIDE=1 JOBS="$JOBS" PYTHONDONTWRITEBYTECODE=1
		CARGO_HOME="$MIRAGE_CACHE/cargo" CARGO_TARGET_DIR="$MIRAGE_STATE/target"
		SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt)
	for p in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY QEMU_ARGS KERNEL_ARGS MIRAGE_ACCEL \
		RUSTFLAGS RUSTDOCFLAGS RUST_BACKTRACE KERNEL V; do
		[ -z "${!p+x}" ] || keep+=("$p=${!p}")
	done
	# shellcheck disable=SC2016  # expanded inside
	exec chroot "${root:-/}" /usr/bin/env -i "${keep[@]}" /bin/sh -c 'cd "$0" && exec "$@"' "$dir" "$@"
}

if [ "${1:-}" = --enter ]; then
	shift
	enter "$@"
fi

binds=()
dir=
while :; do
	case ${1:-} in
	--bind) binds+=("$(realpath "$2")"); shift 2 ;;
	--dir) dir=$2; shift 2 ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || die "usage: in-root.sh [--bind PATH]... [--dir DIR] CMD..."
if [ -n "${MIRAGE_INSIDE:-}" ]; then
	cd "${dir:-$PWD}"
	exec "$@"
fi

root=$("$MIRAGE_SRC/scripts/builder-root.sh")
MIRAGE_SRC_INSIDE=$MIRAGE_SRC
case $MIRAGE_SRC in *[[:space:]]*) MIRAGE_SRC_INSIDE=$MIRAGE_STATE/source ;; esac
export MIRAGE_SRC_INSIDE
mkdir -p "$MIRAGE_CACHE/cargo"
if [ "$root" = / ] && [ "$(id -u)" != 0 ]; then
	[ "$MIRAGE_SRC_INSIDE" = "$MIRAGE_SRC" ] || die "kbuild takes no path with a space in it: rename '$MIRAGE_SRC', or run as root"
	cd "${dir:-$MIRAGE_SRC}"
	exec env MIRAGE_INSIDE=1 JOBS="$JOBS" PYTHONDONTWRITEBYTECODE=1 CARGO_TARGET_DIR="$MIRAGE_STATE/target" "$@"
fi
[ "$(id -u)" = 0 ] || die "entering the builder root needs root"
exec unshare --mount --propagation private "$0" --enter "$root" "${binds[@]}" -- "${dir:-$MIRAGE_SRC_INSIDE}" "$@"
