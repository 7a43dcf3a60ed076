# fish completion for left4ctl(1)

function __left4ctl_instances
    left4ctl --no-legend list 2>/dev/null | string replace -r ' .*' ''
end

function __left4ctl_overlays
    left4ctl --no-legend overlay list 2>/dev/null | string replace -r ' .*' ''
end

function __left4ctl_blueprints
    left4ctl --no-legend blueprint list 2>/dev/null | string replace -r ' .*' ''
end

function __left4ctl_jobs
    left4ctl --no-legend job list 2>/dev/null | string trim | string replace -r ' .*' ''
end

# Tells whether the words that are no options begin with those given.
function __left4ctl_said
    set -l words (commandline -opc | string match -v -- '-*')
    test (count $words) -gt (count $argv); and test "$words[2.."(math 1 + (count $argv))"]" = "$argv"
end

# Tells whether the first words are one of those given, as "overlay show".
function __left4ctl_does
    for verb in $argv
        __left4ctl_said (string split ' ' $verb); and return 0
    end
    return 1
end

complete -c left4ctl -f
complete -c left4ctl -s q -l quiet -d 'Print neither steps nor headings'
complete -c left4ctl -s h -l help -d 'Print help'
complete -c left4ctl -l version -d 'Print the version'

set -l verbs create clone configure rename initialize start stop restart kill reset delete apply export list status logs preview secret which diff conflicts blueprint overlay game job version help
set -l none "not __fish_seen_subcommand_from $verbs"
complete -c left4ctl -n $none -a create -d 'Define an instance and reserve its port'
complete -c left4ctl -n $none -a clone -d 'Define an instance like another one'
complete -c left4ctl -n $none -a configure -d 'Change the definition of an instance'
complete -c left4ctl -n $none -a rename -d 'Give an instance another label'
complete -c left4ctl -n $none -a initialize -d 'Render the files of an instance'
complete -c left4ctl -n $none -a start -d 'Start, now and whenever the machine boots'
complete -c left4ctl -n $none -a stop -d 'Stop, and stay stopped'
complete -c left4ctl -n $none -a restart -d 'Stop, render and start again'
complete -c left4ctl -n $none -a kill -d 'End every process at once, and stay stopped'
complete -c left4ctl -n $none -a reset -d 'Stop and remove all that the server wrote'
complete -c left4ctl -n $none -a delete -d 'Stop and remove an instance'
complete -c left4ctl -n $none -a apply -d 'Make overlays, blueprints and instances match a file'
complete -c left4ctl -n $none -a export -d 'Write a file that apply reads'
complete -c left4ctl -n $none -a list -d 'List the instances'
complete -c left4ctl -n $none -a status -d 'Show an instance, or left4d itself'
complete -c left4ctl -n $none -a logs -d 'Show what a server wrote'
complete -c left4ctl -n $none -a preview -d 'Print the server.cfg of the next start'
complete -c left4ctl -n $none -a secret -d 'Print a secret of an instance'
complete -c left4ctl -n $none -a which -d 'Tell which layers of an instance hold a file'
complete -c left4ctl -n $none -a diff -d 'List what a server itself changed'
complete -c left4ctl -n $none -a conflicts -d 'List the files that more than one overlay holds'
complete -c left4ctl -n $none -a blueprint -d 'Recipes that instances follow'
complete -c left4ctl -n $none -a overlay -d 'Layers of files over the game'
complete -c left4ctl -n $none -a game -d 'Install the game'
complete -c left4ctl -n $none -a job -d 'List, show and cancel jobs'
complete -c left4ctl -n $none -a version -d 'Print the versions'
complete -c left4ctl -n $none -a help -d 'Print help'

set -l of_blueprint create configure list show delete
set -l of_overlay create configure import build list show revisions rollback delete ls get put edit mkdir rm
set -l of_game import revisions rollback
set -l of_job list show cancel
complete -c left4ctl -n '__left4ctl_said help' -a "$verbs"
complete -c left4ctl -n "__left4ctl_said blueprint; and not __fish_seen_subcommand_from $of_blueprint" -a "$of_blueprint"
complete -c left4ctl -n "__left4ctl_said overlay; and not __fish_seen_subcommand_from $of_overlay" -a "$of_overlay"
complete -c left4ctl -n "__left4ctl_said game; and not __fish_seen_subcommand_from $of_game" -a "$of_game"
complete -c left4ctl -n "__left4ctl_said job; and not __fish_seen_subcommand_from $of_job" -a "$of_job"

complete -c left4ctl -n '__left4ctl_does clone configure rename initialize start stop restart kill reset delete export status logs preview secret which diff' -a '(__left4ctl_instances)'
complete -c left4ctl -n '__left4ctl_does conflicts "blueprint configure" "blueprint show" "blueprint delete"' -a '(__left4ctl_blueprints)'
complete -c left4ctl -n '__left4ctl_does "overlay configure" "overlay import" "overlay build" "overlay show" "overlay revisions" "overlay rollback" "overlay delete" "overlay ls" "overlay get" "overlay put" "overlay edit" "overlay mkdir" "overlay rm"' -a '(__left4ctl_overlays)'
complete -c left4ctl -n '__left4ctl_does "job show" "job cancel"' -a '(__left4ctl_jobs)'
complete -c left4ctl -n '__left4ctl_does "game import" "overlay import" "overlay get" "overlay put"' -F

set -l lasting '__left4ctl_does start stop restart kill reset delete "game import" "overlay import" "overlay build" "overlay delete"'
set -l reading '__left4ctl_does export preview secret which diff conflicts "overlay ls" "overlay get"'
set -l changing '__left4ctl_does create clone configure rename initialize apply "blueprint create" "blueprint configure" "blueprint delete" "overlay create" "overlay configure" "overlay rollback" "overlay put" "overlay edit" "overlay mkdir" "overlay rm" "game rollback" "job cancel"'
set -l listing '__left4ctl_does list which diff conflicts "blueprint list" "overlay list" "overlay revisions" "overlay ls" "game revisions" "job list"'
complete -c left4ctl -n "$lasting; or __left4ctl_said initialize" -l no-wait -d 'Do not wait for the end of the job'
complete -c left4ctl -n $lasting -x -l timeout -d 'Give the job up after that time'
complete -c left4ctl -n "$lasting; or $changing; or $reading" -l no-ask-password -d 'Do not let polkit ask for a password'
complete -c left4ctl -n "$listing; or __left4ctl_does status 'blueprint show' 'overlay show' 'job show'" -l json -d 'Print JSON'
complete -c left4ctl -n $listing -l no-legend -d 'Print neither headings nor a count'
complete -c left4ctl -n '__left4ctl_said logs' -x -s n -l lines -d 'Show the newest lines'
complete -c left4ctl -n '__left4ctl_said logs' -s f -l follow -d 'Go on showing new lines'
complete -c left4ctl -n '__left4ctl_said initialize' -r -F -s f -l file -d 'Spec file'
complete -c left4ctl -n '__left4ctl_said apply' -r -F -s f -l file -d 'Host file'
complete -c left4ctl -n '__left4ctl_said apply' -l prune -d 'Delete what the file does not have'
complete -c left4ctl -n '__left4ctl_said conflicts' -x -l instance -a '(__left4ctl_instances)' -d 'Overlays of an instance'
complete -c left4ctl -n '__left4ctl_said configure' -l new-rcon-password -d 'Make a new rcon_password'
complete -c left4ctl -n '__left4ctl_does apply "blueprint configure"' -l dry-run -d 'Print what would change'
complete -c left4ctl -n '__left4ctl_does "overlay create" "overlay configure"' -x -l keep -d 'Older revisions to keep'
complete -c left4ctl -n '__left4ctl_said overlay import' -l into -x -d 'Put all into this directory of the overlay'
complete -c left4ctl -n '__left4ctl_said overlay import' -l merge -d 'Keep the files that are not brought'
complete -c left4ctl -n '__left4ctl_does "overlay ls" "overlay get"' -x -l revision -d 'Look into this revision'
complete -c left4ctl -n '__left4ctl_said overlay rm' -s r -l recursive -d 'Remove directories too'

set -l defining '__left4ctl_does create configure'
set -l shared '__left4ctl_does create configure "blueprint create" "blueprint configure"'
complete -c left4ctl -n $defining -x -l blueprint -a '(__left4ctl_blueprints)' -d 'The blueprint that it follows'
complete -c left4ctl -n "$defining; or __left4ctl_said clone" -x -l port -d 'Game port'
complete -c left4ctl -n "$defining; or __left4ctl_said clone" -x -l label -d 'Name to show to people'
complete -c left4ctl -n '__left4ctl_said clone' -l files -d 'Copy what its server wrote'
complete -c left4ctl -n $defining -x -l hostname -d 'Name in the server browser of the game'
complete -c left4ctl -n $shared -x -l arg -d 'Launch argument'
complete -c left4ctl -n $shared -x -l config-line -d 'Line of server.cfg'
complete -c left4ctl -n $shared -x -l overlay -a '(__left4ctl_overlays)' -d 'Overlay, the first wins'
complete -c left4ctl -n $defining -x -l restart -a 'always on-failure no' -d 'When systemd restarts it'
complete -c left4ctl -n $shared -x -l limit -a 'MemoryMax= MemoryHigh= CPUQuota= AllowedCPUs= TasksMax=' -d 'Resource limit'
