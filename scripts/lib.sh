# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# Common to the scripts: where things are, how they speak, how long steps report. Sourced, never run.

set -euo pipefail

# Inside the builder root in-root.sh has set all three.
if [ -z "${MIRAGE_INSIDE:-}" ]; then
	MIRAGE_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
	MIRAGE_CACHE=${MIRAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mirage}
	# Everything that belongs to this checkout and not to all of them: cargo's target, module objects, logs.
	MIRAGE_STATE=$MIRAGE_CACHE/checkout/$(printf %s "$MIRAGE_SRC" | sha256sum | cut -c1-12)
fi
export MIRAGE_SRC MIRAGE_CACHE MIRAGE_STATE
JOBS=${JOBS:-$(nproc)}
# A parent make's jobserver and flags do not reach into kernel builds: its file descriptors do not get that far.
unset MAKEFLAGS MFLAGS MAKELEVEL

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

case $MIRAGE_CACHE in
*[[:space:]]*) die "the cache directory may not have spaces in its name (kbuild): set MIRAGE_CACHE, now '$MIRAGE_CACHE'" ;;
/*) ;;
*) die "MIRAGE_CACHE must be an absolute path, not '$MIRAGE_CACHE'" ;;
esac
mkdir -p "$MIRAGE_CACHE" "$MIRAGE_STATE" ||
	die "cannot write to the cache directory $MIRAGE_CACHE: set MIRAGE_CACHE to one that can be written"

# key: a short hash of standard input
key() { sha256sum | cut -c1-12; }

# with_lock NAME CMD...: one at a time over all checkouts. The lock is freed with the process that holds it.
with_lock() {
	local lock=$MIRAGE_CACHE/$1.lock fd
	shift
	exec {fd}>"$lock"
	if ! flock -n "$fd"; then
		say "waiting for another run that holds $lock"
		flock "$fd"
	fi
	"$@"
	exec {fd}>&-
}

# logged LABEL LOG CMD...: runs CMD with its output in LOG, says how long it took; while it runs, a progress line every
# half minute (every second on a terminal). When CMD fails, the end of LOG is shown.
logged() {
	local label=$1 log=$2 start=$SECONDS ticker status=0
	shift 2
	mkdir -p "$(dirname "$log")"
	: >"$log"
	_ticker "$label" "$log" $$ &
	ticker=$!
	"$@" >"$log" 2>&1 </dev/null || status=$?
	kill "$ticker" 2>/dev/null || true
	wait "$ticker" 2>/dev/null || true
	[ ! -t 2 ] || printf '\r\033[K' >&2
	if [ "$status" -ne 0 ]; then
		say "== $label: failed after $((SECONDS - start)) s (status $status); end of $log:"
		tail -n 40 "$log" >&2
		return "$status"
	fi
	say "== $label: $((SECONDS - start)) s"
}

_ticker() {
	local label=$1 log=$2 parent=$3 start=$SECONDS pause=30 last
	trap 'exit 0' TERM
	[ ! -t 2 ] || pause=1
	while sleep "$pause" & wait $!; kill -0 "$parent" 2>/dev/null; do
		last=$(tail -c 400 "$log" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c1-80) || last=
		if [ -t 2 ]; then
			printf '\r\033[K   %s: %d s, %d lines: %s' "$label" "$((SECONDS - start))" "$(wc -l <"$log")" "$last" >&2
		else
			say "   $label: $((SECONDS - start)) s, $(wc -l <"$log") lines: $last"
		fi
	done
}

# kernel_compiler KDIR: the argument that has make use the compiler that a prepared tree was configured with.
kernel_compiler() {
	if grep -q '^CONFIG_CC_IS_CLANG=y' "$1/.config"; then
		echo LLVM=1
	else
		sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ "]*\).*/CC=\1/p' "$1/.config"
	fi
}
