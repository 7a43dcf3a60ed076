package ctl

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"left4.me/left4/client"
)

func TestLimitsAreReadAndShownAsInAUnitFile(t *testing.T) {
	for _, tt := range []struct{ limit, text, shown string }{
		{"MemoryMax", "2G", "2G"},
		{"MemoryMax", "2147483648", "2G"},
		{"MemoryMax", "1.5G", "1536M"},
		{"MemoryMax", "0", "0"},
		{"MemoryMax", "1023", "1023"},
		{"MemoryMax", "15E", "15E"},
		{"MemoryHigh", "infinity", "infinity"},
		{"CPUQuota", "150%", "150%"},
		{"CPUQuota", "12.5%", "12.5%"},
		{"CPUQuota", "infinity", "infinity"},
		{"AllowedCPUs", "0-3", "0-3"},
		{"AllowedCPUs", "8 0 1,2, 9", "0-2,8-9"},
		{"AllowedCPUs", "8191", "8191"},
		{"TasksMax", "256", "256"},
		{"TasksMax", "infinity", "infinity"},
	} {
		l, err := findLimit(tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		var all client.Limits
		if err := l.set(&all, tt.text); err != nil {
			t.Errorf("%s=%s: %v", tt.limit, tt.text, err)
		} else if got := l.show(all); got != tt.shown {
			t.Errorf("%s=%s is shown as %s", tt.limit, tt.text, got)
		}
		l.clear(&all)
		if got := l.show(all); got != "" {
			t.Errorf("%s is %s after it was cleared", tt.limit, got)
		}
	}
}

func TestLimitsThatAreNoneAreRefused(t *testing.T) {
	for limit, texts := range map[string][]string{
		"MemoryMax":   {"", "G", "2g", "2GB", "-1", "+1", "1e3", "0x10", "NaN", "16E", "18446744073709551615", "1.2.3G", "50%", "1 G", "99999999999999999999E"},
		"CPUQuota":    {"", "%", "150", "-1%", "1e3%", "NaN%", "Inf%"},
		"AllowedCPUs": {"", ",", "a", "3-1", "0-8192", "-1", "1-", "0-3-5"},
		"TasksMax":    {"", "-1", "10K", "50%", "18446744073709551615"},
	} {
		l, err := findLimit(limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if err := l.set(&client.Limits{}, text); err == nil {
				t.Errorf("%s=%s is accepted", limit, text)
			}
		}
	}
}

func TestTimeouts(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "5": 5 * time.Second, "1h": time.Hour, "0": 0, "-1s": 0, "x": 0, "": 0} {
		var got timeout
		if err := got.Set(text); time.Duration(got) != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v %v", text, time.Duration(got), err)
		}
	}
}

func FuzzLimits(f *testing.F) {
	for _, text := range []string{"2G", "1.5M", "150%", "0-3,8", "infinity", "7"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range limits {
			var first, second client.Limits
			if l.set(&first, text) != nil {
				continue
			}
			shown := l.show(first)
			if err := l.set(&second, shown); err != nil || l.show(second) != shown {
				t.Errorf("%s=%s is shown as %s: %v", l.name, text, shown, err)
			}
			if a, b := fmt.Sprint(dump(first)), fmt.Sprint(dump(second)); a != b && l.name != "CPUQuota" {
				t.Errorf("%s=%s is %s, and %s when read again", l.name, text, a, b)
			}
		}
	})
}

func FuzzCPUs(f *testing.F) {
	f.Add([]byte{0x0f, 0, 1})
	f.Fuzz(func(t *testing.T, mask []byte) {
		mask = bytes.TrimRight(mask, "\x00")
		if len(mask) == 0 || len(mask) > (maxCPU+1)/8 {
			return
		}
		if back, err := parseCPUs(showCPUs(mask)); err != nil || !bytes.Equal(mask, back) {
			t.Errorf("%x is shown as %s, read as %x: %v", mask, showCPUs(mask), back, err)
		}
	})
}

func dump(l client.Limits) (all []any) {
	for _, n := range []*uint64{l.MemoryMax, l.MemoryHigh, l.CPUQuotaPerSecUSec, l.TasksMax} {
		if n != nil {
			all = append(all, *n)
		}
	}
	return append(all, l.AllowedCPUs)
}
