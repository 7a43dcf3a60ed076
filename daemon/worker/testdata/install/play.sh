# Played by a stand-in of SteamCMD or DepotDownloader. $root is the test's directory, $texts that of the recorded texts.
game=$root/game manifest=$root/game/steamapps/appmanifest_222860.acf

# say prints a recorded text.
say() { cat "$texts/$1.txt"; }

# put gives a file a text, unless it has it.
put() {
	mkdir -p "$(dirname "$game/$1")"
	[[ "$(cat "$game/$1" 2>/dev/null)" == "$2" ]] || echo "$2" > "$game/$1"
}

# game makes the files of a game, and with a build the manifest that SteamCMD leaves.
game() {
	put srcds_run '#!/bin/sh'; chmod 755 "$game/srcds_run"
	put srcds_linux 'a program'; chmod 755 "$game/srcds_linux"
	put bin/steamclient.so 'the 32-bit one of the game'
	put left4dead2/gameinfo.txt 'a game'
	[[ -z $1 ]] || put steamapps/appmanifest_222860.acf '"AppState"
{
	"appid"		"222860"
	"StateFlags"		"4"
	"buildid"		"'"$1"'"
	"BytesToDownload"		"1000"
	"BytesDownloaded"		"1000"
}'
}

echo "$*" >> "$root/calls"
run=$(($(cat "$root/run" 2>/dev/null || echo 0) + 1))
echo $run > "$root/run"
[[ -e $root/runs/$run ]] || run=$(ls "$root/runs" | sort -n | tail -n 1)
. "$root/runs/$run"
