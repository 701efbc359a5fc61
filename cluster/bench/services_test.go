package bench

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// The claim of the design, counted in the kernel and not timed: kubarium's chains and rules do not depend on the number of
// Services; every other layout has some for each Service and endpoint.
func TestOnlyOurChainsAndRulesAreTheSameForAnyNumberOfServices(t *testing.T) {
	t.Parallel()
	few, many := 10, 40
	res, err := Services(t.Context(), Options{Services: []int{many, few}, Endpoints: 3, Adds: 1, Connects: 1})
	if err != nil || len(res.LeftOut) > 0 {
		t.Fatalf("left out %v, error %v", res.LeftOut, err)
	}
	if got := res.Layouts(); !slices.Contains(got, LayoutOurs) || !slices.Contains(got, LayoutChains) || !slices.Contains(got, LayoutIptables) {
		t.Fatalf("measured %v", got)
	}
	for _, layout := range res.Layouts() {
		var rows []Row
		for _, r := range res.Rows {
			if r.Layout == layout {
				rows = append(rows, r)
			}
		}
		if len(rows) != 2 || rows[0].Services != few || rows[1].Services != many {
			t.Fatalf("%s: rows %+v", layout, rows)
		}
		chains, rules := rows[1].Chains-rows[0].Chains, rows[1].Rules-rows[0].Rules
		wantChains, leastRules := (many-few)*4, (many-few)*4 // a Service's and its three endpoints'
		if layout == LayoutOurs {
			wantChains, leastRules = 0, 0
		}
		if chains != wantChains || rules < leastRules || layout == LayoutOurs && rules != 0 {
			t.Errorf("%s: %d Services more have %d chains and %d rules more", layout, many-few, chains, rules)
		}
		if rows[0].Chains == 0 || rows[0].Rules == 0 || rows[0].Load <= 0 || rows[0].Add <= 0 || rows[0].Connect <= 0 || rows[0].Direct <= 0 {
			t.Errorf("%s: not measured: %+v", layout, rows[0])
		}
	}
}

// A layout that takes too long is left out from there on, and said to be; the others go on.
func TestALayoutBeyondTheLimitIsLeftOut(t *testing.T) {
	t.Parallel()
	res, err := Services(t.Context(), Options{Services: []int{10, 20}, Adds: 1, Connects: 1, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Rows) != 0 || len(res.LeftOut) < 3 {
		t.Fatalf("rows %v, left out %v", res.Rows, res.LeftOut)
	}
	for _, s := range res.LeftOut {
		if s.Services != 10 || !strings.Contains(s.Why, "it took longer than 1ns to load all") {
			t.Errorf("left out: %+v", s)
		}
	}
}

// Where a layout's tools are missing, the others are measured, and the result says what was left out.
func TestALayoutWithoutItsToolsIsLeftOut(t *testing.T) {
	t.Parallel()
	o, err := Options{Services: []int{3}, Adds: 1, Connects: 1}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	missing := layout{name: "ipvs", check: func() error {
		_, err := tool("no-such-program")
		return err
	}}
	res, err := o.compare(t.Context(), append([]layout{missing}, layouts(t.Context())...))
	if err != nil || len(res.LeftOut) != 1 || len(res.Rows) < 3 {
		t.Fatalf("%+v, %v", res, err)
	}
	if want := (Skip{Layout: "ipvs", Services: 3, Why: "this machine has no no-such-program"}); res.LeftOut[0] != want {
		t.Errorf("left out %+v, want %+v", res.LeftOut[0], want)
	}
}

// What is interrupted leaves nothing: the namespaces are let go of, and so is the folder of our store.
func TestAnInterruptedComparisonCleansUp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, err := Services(ctx, Options{Services: []int{50}, Progress: func(what string) {
		if strings.Contains(what, LayoutOurs+": connect") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", res, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOptionsOutOfBoundsAreRefused(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Services: []int{0}}, {Services: []int{MaxServices + 1}}, {Endpoints: MaxEndpoints + 1}} {
		if res, err := Services(t.Context(), o); err == nil || len(res.Rows) > 0 {
			t.Errorf("%+v: %+v, %v", o, res, err)
		}
	}
}

func TestThePlotIsAPictureWithALineForEachLayout(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string][]Row{
		"two numbers": {
			{Layout: LayoutChains, Services: 10, Load: 0.1, Add: 0.01, Connect: 0.0001}, {Layout: LayoutOurs, Services: 10, Load: 0.1, Add: 0.001, Connect: 0.0001},
			{Layout: LayoutChains, Services: 100, Load: 1, Add: 0.1, Connect: 0.0001}, {Layout: LayoutOurs, Services: 100, Load: 0.2, Add: 0.001, Connect: 0.0001},
		},
		"one number": {{Layout: LayoutOurs, Services: 10, Load: 0.1, Add: 0.001, Connect: 0.0001}},
		"nothing":    nil,
	} {
		res := Result{Rows: rows}
		var b strings.Builder
		if err := res.SVG(&b); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(b.String(), "<polyline "), 3*len(res.Layouts()); got != want {
			t.Errorf("%s: %d lines, want %d", name, got, want)
		}
		if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%s: a number is none:\n%s", name, b.String())
		}
		dec := xml.NewDecoder(strings.NewReader(b.String()))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func TestDurationsAreReadable(t *testing.T) {
	t.Parallel()
	for s, want := range map[Seconds]string{0.0000851: "85.1 µs", 0.00123: "1.23 ms", 12.34: "12.3 s", 0.1: "100 ms", 0: "0 µs"} {
		if got := s.String(); got != want {
			t.Errorf("%v: got %q, want %q", float64(s), got, want)
		}
	}
}
