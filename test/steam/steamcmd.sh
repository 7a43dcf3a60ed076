#!/bin/bash
# Stand-in of the script in Valve's archive of SteamCMD. It finds its own directory by the name that it was called by, so that a link to
# it finds nothing, and begins anew when the program has updated itself and asks for that by its exit status.

root=$(cd "${0%/*}" && pwd)
program=$root/linux32/$(basename "$0" .sh)
export LD_LIBRARY_PATH=$root/linux32:$LD_LIBRARY_PATH
ulimit -n 2048

"$program" "$@"
status=$?
if [ $status -eq 42 ]; then
	echo "steamcmd.sh[$$]: Restarting steamcmd by request..."
	exec "$0" "$@"
fi
exit $status
