package polkit

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const shipped = "../packaging/polkit/me.left4.policy"

func mustRead(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestShippedActions(t *testing.T) {
	want := []string{
		"me.left4.instance.create", "me.left4.instance.initialize", "me.left4.instance.start", "me.left4.instance.stop",
		"me.left4.instance.restart", "me.left4.instance.kill", "me.left4.instance.reset", "me.left4.instance.delete",
		"me.left4.instance.configure", "me.left4.instance.inspect", "me.left4.instance.secret",
		"me.left4.blueprint.edit", "me.left4.blueprint.delete", "me.left4.blueprint.inspect",
		"me.left4.overlay.edit", "me.left4.overlay.build", "me.left4.overlay.delete", "me.left4.overlay.inspect",
		"me.left4.overlay.script",
		"me.left4.game.install", "me.left4.job.cancel", "me.left4.diagnose", "me.left4.repair",
		"me.left4.administer",
	}
	text := mustRead(t, shipped)
	got, err := Actions(text)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("actions are\n%v, not\n%v", got, want)
	}

	t.Run("administer implies all others", func(t *testing.T) {
		implied := regexp.MustCompile(`imply">([^<]*)<`).FindSubmatch(text)
		if implied == nil || string(implied[1]) != strings.Join(want[:len(want)-1], " ") {
			t.Errorf("administer implies %q", implied)
		}
	})

	t.Run("messages are sentences", func(t *testing.T) {
		messages := regexp.MustCompile(`<message>(.*)</message>`).FindAllSubmatch(text, -1)
		if len(messages) != len(want) {
			t.Errorf("%d messages for %d actions", len(messages), len(want))
		}
		for i, m := range messages {
			message := string(m[1])
			if !strings.HasPrefix(message, "Authentication is required to ") || !strings.HasSuffix(message, ".") {
				t.Errorf("message %q", message)
			}
			for _, detail := range []string{"instance", "blueprint", "overlay"} {
				about := strings.HasPrefix(want[i], "me.left4."+detail+".")
				if about != strings.Contains(message, "$("+detail+")") {
					t.Errorf("message %q of %s", message, want[i])
				}
			}
		}
	})
}

func TestActionsRefusesWhatLooksRight(t *testing.T) {
	good := string(mustRead(t, shipped))
	for _, tt := range []struct{ name, old, new, want string }{
		{"declared twice", `id="me.left4.instance.stop"`, `id="me.left4.instance.start"`, "action me.left4.instance.start is declared twice"},
		{"no id", ` id="me.left4.instance.stop"`, ``, `"" is no action id`},
		{"underscore", `id="me.left4.job.cancel"`, `id="me.left4.job_cancel"`, `"me.left4.job_cancel" is no action id`},
		{"misspelt default", "allow_active>auth_admin_keep</allow_active", "allow_active>auth_admin_kept</allow_active", `action me.left4.instance.create has the unknown allow_active "auth_admin_kept"`},
		{"missing default", "<allow_any>auth_admin</allow_any>", "", "action me.left4.instance.create needs one allow_any"},
		{"misspelt element", "<message>Authentication", "<massage>x</massage><message>Authentication", "action me.left4.instance.create has the unknown element massage"},
		{"element beside the actions", "<vendor>", "<vendors/><vendor>", "policyconfig has the unknown element vendors"},
		{"implies what is not there", "imply\">me.left4.instance.create", "imply\">me.left4.instance.creat", `action me.left4.administer implies "me.left4.instance.creat", which is not declared`},
		{"implies over two lines", "me.left4.instance.create me.left4.instance.initialize", "me.left4.instance.create\nme.left4.instance.initialize", `action me.left4.administer implies "me.left4.instance.create\nme.left4.instance.initialize", which is not declared`},
		{"misspelt annotation", `policykit.imply"`, `policykit.implies"`, "action me.left4.administer has the unknown annotation org.freedesktop.policykit.implies"},
		{"second document", "</policyconfig>", "</policyconfig><policyconfig/>", "a second element follows policyconfig"},
		{"cut off", "</policyconfig>", "", "XML syntax error on line 245: unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(good, tt.old) {
				t.Fatalf("the action file has no %s", tt.old)
			}
			ids, err := Actions([]byte(strings.Replace(good, tt.old, tt.new, 1)))
			if err == nil || ids != nil {
				t.Fatalf("Actions = %v, %v", ids, err)
			}
			if got := strings.TrimPrefix(err.Error(), "cannot read the polkit actions: "); got != tt.want && tt.name != "cut off" {
				t.Errorf("error %s\nnot   %s", got, tt.want)
			}
		})
	}
}

func FuzzActions(f *testing.F) {
	f.Add(mustRead(f, shipped))
	f.Add([]byte(`<policyconfig><vendor>v</vendor><action id="a.b"><description>d</description><message>m</message><defaults><allow_any>no</allow_any><allow_inactive>no</allow_inactive><allow_active>yes</allow_active></defaults></action></policyconfig>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		ids, err := Actions(text)
		if err != nil && ids != nil {
			t.Errorf("both %v and %v", ids, err)
		}
		seen := map[string]bool{}
		for _, id := range ids {
			if seen[id] || !actionID.MatchString(id) {
				t.Errorf("id %q", id)
			}
			seen[id] = true
		}
	})
}
