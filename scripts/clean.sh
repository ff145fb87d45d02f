#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# clean.sh [--all]: removes what was built from this checkout, or the whole cache.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Nothing stays mounted in there after a run; should something be mounted now, it is in use.
clear_out() {
	! grep -q " $1/" /proc/self/mounts || die "something is mounted in $1: not removed"
	rm -rf --one-file-system "$1"
}

case ${1:-} in
--all) clear_out "$MIRAGE_CACHE" ;;
*) clear_out "$MIRAGE_STATE" ;;
esac
