package bench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// The plot's measures, in pixels.
const (
	panelWidth, panelHeight = 300, 260
	panelGap                = 70
	marginLeft, marginTop   = 70, 70
	plotHeight              = marginTop + panelHeight + 110
	legendStep              = 220
)

// colours are the layouts', told apart by people who do not see colours well (Okabe and Ito's).
var colours = map[string]string{
	LayoutLegacy: "#D55E00", LayoutIptables: "#E69F00", LayoutChains: "#0072B2", LayoutOurs: "#009E73",
}

// panel is one figure over the number of Services.
type panel struct {
	title string
	value func(Row) Seconds
}

var panels = []panel{
	{"load all", func(r Row) Seconds { return r.Load }},
	{"add one Service", func(r Row) Seconds { return r.Add }},
	{"connect through the last", func(r Row) Seconds { return r.Connect }},
}

// SVG draws the result: a panel for each figure, both axes logarithmic, a line for each layout.
func (r Result) SVG(w io.Writer) error {
	var b strings.Builder
	width := marginLeft + len(panels)*(panelWidth+panelGap)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, plotHeight)
	fmt.Fprintf(&b, `<text x="%d" y="28" font-size="17">N Services with %d endpoints each (%s)</text>`+"\n", marginLeft, r.Endpoints, r.Machine)
	for i, p := range panels {
		r.draw(&b, p, marginLeft+i*(panelWidth+panelGap))
	}
	for i, l := range r.Layouts() {
		x, y := marginLeft+i*legendStep, marginTop+panelHeight+75
		fmt.Fprintf(&b, `<circle cx="%d" cy="%d" r="5" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", x, y-4, colours[l], x+12, y, l)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Layouts are those that were measured, in the order of the rows.
func (r Result) Layouts() []string {
	var all []string
	for _, row := range r.Rows {
		if !slices.Contains(all, row.Layout) {
			all = append(all, row.Layout)
		}
	}
	return all
}

// along puts a value on a logarithmic axis of size pixels. An axis of one value has it in the middle.
func along(v, low, high float64, size int) float64 {
	if high <= low {
		return float64(size) / 2
	}
	return (math.Log10(v) - math.Log10(low)) / (math.Log10(high) - math.Log10(low)) * float64(size)
}

// bounds are the powers of ten around a panel's values.
func (r Result) bounds(p panel) (low, high float64) {
	low, high = math.Inf(1), 0
	for _, row := range r.Rows {
		low, high = min(low, float64(p.value(row))), max(high, float64(p.value(row)))
	}
	return math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
}

func (r Result) draw(b *strings.Builder, p panel, left int) {
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="14">%s</text>`+"\n", left, marginTop-12, p.title)
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#888"/>`+"\n", left, marginTop, panelWidth, panelHeight)
	if len(r.Rows) == 0 {
		return
	}
	low, high := r.bounds(p)
	few, many := float64(r.Rows[0].Services), float64(r.Rows[len(r.Rows)-1].Services)
	x := func(n int) float64 { return float64(left) + along(float64(n), few, many, panelWidth) }
	y := func(s float64) float64 { return float64(marginTop+panelHeight) - along(s, low, high, panelHeight) }
	for tick := low; tick <= high*1.01; tick *= 10 {
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>`, left, left+panelWidth, y(tick), y(tick))
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-6, y(tick)+4, Seconds(tick))
	}
	seen := 0
	for _, row := range r.Rows {
		if row.Services != seen {
			seen = row.Services
			fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(seen), marginTop+panelHeight+18, seen)
		}
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#555">Services</text>`+"\n", left+panelWidth/2, marginTop+panelHeight+38)
	for _, l := range r.Layouts() {
		var points []string
		for _, row := range r.Rows {
			if row.Layout == l {
				at := fmt.Sprintf("%.1f,%.1f", x(row.Services), y(float64(p.value(row))))
				points = append(points, at)
				px, py, _ := strings.Cut(at, ",")
				fmt.Fprintf(b, `<circle cx="%s" cy="%s" r="3.5" fill="%s"><title>%s, %d Services: %s</title></circle>`+"\n", px, py, colours[l], l, row.Services, p.value(row))
			}
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colours[l])
	}
}

// String is s as people read it, to three digits: 85 µs, 1.23 ms, 12.3 s.
func (s Seconds) String() string {
	d, unit, name := float64(s)*1e6, 1.0, "µs"
	switch abs := s.Duration().Abs(); {
	case abs >= time.Second:
		unit, name = 1e6, "s"
	case abs >= time.Millisecond:
		unit, name = 1e3, "ms"
	}
	return fmt.Sprintf("%.3g %s", d/unit, name)
}
