package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"left4.me/left4/test/bench/measured"
)

// plots are the drawings: what a curve's plot is called there, and its unit.
var plots = []struct{ plot, title, unit string }{
	{"start", "Start and enable one more server", "ms"},
	{"list", "List all servers", "ms"},
	{"restart", "Restart of left4d", "ms"},
	{"memory", "Memory of left4d", "MB"},
}

var colors = []string{"#1a7f37", "#6e7781", "#cf222e"}

// draw writes a file for each plot, to be looked at on white and on black.
func draw(dir string, curves []measured.Curve) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range plots {
		var mine []measured.Curve
		for _, c := range curves {
			if c.Plot == p.plot {
				mine = append(mine, c)
			}
		}
		text := drawing(p.title, p.unit, mine)
		if err := os.WriteFile(filepath.Join(dir, "bench-"+p.plot+".svg"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// drawing is one plot; both axes are logarithmic, so that 1 and 1000 are both to be seen.
func drawing(title, unit string, curves []measured.Curve) string {
	const width, height, left, right, top, bottom = 640, 360, 60, 20, 40, 70
	low, high, most := math.Inf(1), 0.0, 1
	for _, c := range curves {
		for i, y := range c.Y {
			low, high, most = min(low, y), max(high, y), max(most, c.X[i])
		}
	}
	first, last := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	if last == first {
		last++
	}
	decades := math.Max(1, math.Ceil(math.Log10(float64(most))))
	px := func(x float64) float64 { return left + math.Log10(x)/decades*(width-left-right) }
	py := func(y float64) float64 {
		return height - bottom - (math.Log10(y)-first)/(last-first)*(height-top-bottom)
	}

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15">%s</text>`+"\n", left, title)
	for d := first; d <= last; d++ {
		y := py(math.Pow(10, d))
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#d0d7de"/><text x="%d" y="%.1f" text-anchor="end">%g %s</text>`+"\n",
			left, y, width-right, left-6, y+4, math.Pow(10, d), unit)
	}
	for d := 0.0; d <= decades; d++ {
		x := px(math.Pow(10, d))
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#d0d7de"/><text x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n",
			x, top, height-bottom, x, height-bottom+18, math.Pow(10, d))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">servers that run</text>`+"\n", width-right, height-bottom+34)
	at := left
	for n, c := range curves {
		color := colors[n%len(colors)]
		var points []string
		for i, y := range c.Y {
			x := px(float64(c.X[i]))
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, py(y)))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/><text x="%.1f" y="%.1f" text-anchor="middle" fill="%s">%.3g</text>`+"\n",
				x, py(y), color, x, py(y)-8, color, y)
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), color)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			at, height-22, color, at+18, height-12, c.Name)
		at += 40 + 7*len(c.Name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
