package ingress

type service struct{}
type ruleStats struct{}
