package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// Options say what Services measures. The zero value of a field means its default.
type Options struct {
	Services  []int // how many Services are held, one column of figures for each: 1000, 5000, 20000
	Endpoints int   // of each Service: 5
	Adds      int   // Services added one by one to those held; the figure is their median: 5
	Connects  int   // connections through the last Service; the figure is their median: 500
	// Limit bounds each load and each Service added: a layout that takes longer is left out from there on, and the result
	// says so: 2 minutes.
	Limit time.Duration
	// Progress is told what begins now; nil for nobody.
	Progress func(string)
}

// Result is what was measured, and what could not be.
type Result struct {
	Machine   string  `json:"machine"`
	Endpoints int     `json:"endpoints"` // of each Service
	Rows      []Row   `json:"rows"`      // in order of number, then of layout
	LeftOut   []Skip  `json:"leftOut,omitempty"`
	Took      Seconds `json:"took"`
}

// Row is one layout at one number of Services. Durations are as a user of that layout has them: tools started, transactions
// committed.
type Row struct {
	Layout   string `json:"layout"`
	Services int    `json:"services"`
	// Chains and Rules are what the kernel holds for all of them.
	Chains int `json:"chains"`
	Rules  int `json:"rules"`
	// Load is the time to load all, Add that to add one more with its endpoints.
	Load Seconds `json:"load"`
	Add  Seconds `json:"add"`
	// AddRule is the time to append a single rule by `iptables -A`; 0 for layouts that have no such thing.
	AddRule Seconds `json:"addRule,omitempty"`
	// Connect is the time to connect through the last Service held, Direct that to its endpoint before there was any Service.
	Connect Seconds `json:"connect"`
	Direct  Seconds `json:"direct"`
}

// Skip is a layout that was left out, from a number of Services on, and why.
type Skip struct {
	Layout   string `json:"layout"`
	Services int    `json:"services"`
	Why      string `json:"why"`
}

// Seconds is a duration that JSON carries as a number of seconds.
type Seconds float64

// Duration is s as Go has it.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

func seconds(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// MaxServices and MaxEndpoints bound what the address ranges in use hold.
const (
	MaxServices  = 100_000
	MaxEndpoints = 30
)

// ErrMissing is returned when a layout needs a program that the machine lacks.
var ErrMissing = errors.New("this machine has no")

func (o Options) withDefaults() (Options, error) {
	if len(o.Services) == 0 {
		o.Services = []int{1000, 5000, 20000}
	}
	for field, value := range map[*int]int{&o.Endpoints: 5, &o.Adds: 5, &o.Connects: 500} {
		if *field == 0 {
			*field = value
		}
	}
	if o.Limit == 0 {
		o.Limit = 2 * time.Minute
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Endpoints < 1 || o.Endpoints > MaxEndpoints {
		return o, fmt.Errorf("%d endpoints a Service: it must be between 1 and %d", o.Endpoints, MaxEndpoints)
	}
	o.Services = slices.Clone(o.Services)
	slices.Sort(o.Services)
	o.Services = slices.Compact(o.Services)
	if first, last := o.Services[0], o.Services[len(o.Services)-1]; first < 1 || last > MaxServices {
		return o, fmt.Errorf("%d to %d Services: they must be between 1 and %d", first, last, MaxServices)
	}
	return o, nil
}

// table is one layout's Services in the kernel of a rig's node.
type table interface {
	// load makes the Services that were asked for, numbered from 0.
	load(ctx context.Context) error
	// add makes Service i, the next one.
	add(ctx context.Context, i int) error
}

// appender is a table that can append a single rule.
type appender interface {
	appendRule(ctx context.Context, i int) error
}

// shaped is a table that nftables does not know of.
type shaped interface {
	shape(ctx context.Context) (chains, rules int, err error)
}

// shape counts the chains and rules that the kernel holds.
func shape(ctx context.Context, r *rig, t table) (chains, rules int, err error) {
	if s, ok := t.(shaped); ok {
		return s.shape(ctx)
	}
	return r.count()
}

// layout is one way to do Services.
type layout struct {
	name  string
	check func() error // why this machine cannot have it
	// open prepares n Services; the rig's end is the table's.
	open func(ctx context.Context, r *rig, n int) (table, error)
}

// Services measures each layout at each number of Services. A layout that this machine cannot have, or that fails or takes too
// long, is left out from there on, which the result says; the error is of the measuring itself, or of a ctx that ended.
func Services(ctx context.Context, o Options) (Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Result{}, err
	}
	return o.compare(ctx, layouts(ctx))
}

// compare measures those of the layouts that the machine can have.
func (o Options) compare(ctx context.Context, all []layout) (Result, error) {
	began := time.Now()
	res := Result{Machine: fmt.Sprintf("%d cores, Linux %s", runtime.NumCPU(), kernelRelease()), Endpoints: o.Endpoints}
	var here []layout
	for _, l := range all {
		err := l.check()
		if err != nil {
			res.LeftOut = append(res.LeftOut, Skip{Layout: l.name, Services: o.Services[0], Why: err.Error()})
			continue
		}
		here = append(here, l)
	}
	for _, n := range o.Services {
		here = slices.DeleteFunc(here, func(l layout) bool {
			if ctx.Err() != nil {
				return true
			}
			row, err := o.measure(ctx, l, n)
			if err != nil && ctx.Err() == nil {
				res.LeftOut = append(res.LeftOut, Skip{Layout: l.name, Services: n, Why: err.Error()})
				return true
			}
			res.Rows = append(res.Rows, row)
			return false
		})
	}
	res.Took = seconds(time.Since(began))
	return res, ctx.Err()
}

// measure makes a rig, and in it one layout with n Services.
func (o Options) measure(ctx context.Context, l layout, n int) (row Row, err error) {
	row = Row{Layout: l.name, Services: n}
	tell := func(what string) { o.Progress(fmt.Sprintf("%d Services, %s: %s", n, l.name, what)) }
	r, err := newRig(ctx, o.Endpoints)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	t, err := l.open(ctx, r, n)
	if err != nil {
		return row, err
	}
	if row.Direct, err = r.connect(r.endpoint(n-1, 0), o.Connects); err != nil {
		return row, fmt.Errorf("connect to an endpoint: %w", err)
	}
	tell("load all")
	if row.Load, err = o.timed(ctx, "to load all", t.load); err != nil {
		return row, err
	}
	if row.Chains, row.Rules, err = shape(ctx, r, t); err != nil {
		return row, err
	}
	tell("connect through the last")
	if row.Connect, err = r.connect(r.service(n-1), o.Connects); err != nil {
		return row, fmt.Errorf("connect through the last Service: %w", err)
	}
	tell("add one")
	err = o.addSome(ctx, r, t, &row)
	return row, err
}

// addSome adds Services one by one, and sees that the last one works.
func (o Options) addSome(ctx context.Context, r *rig, t table, row *Row) (err error) {
	n := row.Services
	if row.Add, err = o.each(ctx, "to add one", func(ctx context.Context, i int) error { return t.add(ctx, n+i) }); err != nil {
		return err
	}
	if _, err := r.connect(r.service(n+o.Adds-1), 1); err != nil {
		return fmt.Errorf("connect through the Service added last: %w", err)
	}
	if a, ok := t.(appender); ok {
		row.AddRule, err = o.each(ctx, "to append a rule", func(ctx context.Context, i int) error { return a.appendRule(ctx, n+o.Adds+i) })
	}
	return err
}

// each does something for each Service added, and returns the median time.
func (o Options) each(ctx context.Context, what string, do func(context.Context, int) error) (Seconds, error) {
	all := make([]Seconds, o.Adds)
	for i := range all {
		var err error
		if all[i], err = o.timed(ctx, what, func(ctx context.Context) error { return do(ctx, i) }); err != nil {
			return 0, err
		}
	}
	return median(all), nil
}

// timed bounds what is measured by the limit.
func (o Options) timed(ctx context.Context, what string, do func(context.Context) error) (Seconds, error) {
	limited, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	began := time.Now()
	err := do(limited)
	if limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("it took longer than %v %s", o.Limit, what)
	}
	return seconds(time.Since(began)), err
}
