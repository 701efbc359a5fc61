package node

import "slices"

// lead lets one machine speak for the load balancers' addresses towards outside: the first that has power and is not cut off, as the
// elected node of a load balancer that announces addresses is.
func (f *Fabric) lead() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leadLocked()
}

func (f *Fabric) leadLocked() error {
	if !f.cfg.LoadBalancers.IsValid() {
		return nil
	}
	i := slices.IndexFunc(f.machines, (*machine).connected)
	if i < 0 {
		gone := f.way
		f.way = route{}
		if !gone.to.IsValid() {
			return nil
		}
		return f.outside.delRoute(gone)
	}
	f.way = route{to: f.cfg.LoadBalancers.Masked(), dev: f.outside.eth0, via: f.machines[i].addr}
	return f.outside.replaceRoute(f.way)
}

// connected tells whether the machine has power and is on the wire that outside is on.
func (m *machine) connected() bool {
	m.power.mu.Lock()
	defer m.power.mu.Unlock()
	return !m.power.off && !m.power.cut
}
