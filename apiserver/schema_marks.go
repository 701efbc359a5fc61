package apiserver

// The Go types' comments carry marks (+listType, +mapType, +structType) that reflection does not see. Here stand those that do
// not follow from a field's strategic merge tags; a test reads the types' source and holds these tables to it.

const (
	coreModel      = "io.k8s.api.core.v1."
	metaModel      = "io.k8s.apimachinery.pkg.apis.meta.v1."
	discoveryModel = "io.k8s.api.discovery.v1."
)

// merge says how the elements of a list or map belong to those who apply them.
type merge struct {
	how  string // "set", "atomic"; "" with keys
	keys []any  // names of the fields that tell the elements of a list apart
}

var portKeys = []any{"containerPort", "protocol"}

// merging holds the fields whose marks say something else than their strategic merge tags.
var merging = map[string]merge{
	coreModel + "Container.ports":                                 {keys: portKeys},
	coreModel + "EphemeralContainerCommon.ports":                  {keys: portKeys},
	coreModel + "EphemeralContainer.ports":                        {keys: portKeys},
	coreModel + "ServiceSpec.ports":                               {keys: []any{"port", "protocol"}},
	coreModel + "PodSpec.topologySpreadConstraints":               {keys: []any{"topologyKey", "whenUnsatisfiable"}},
	coreModel + "ResourceRequirements.claims":                     {keys: []any{"name"}},
	coreModel + "ResourceStatus.resources":                        {keys: []any{"resourceID"}},
	coreModel + "PodStatus.volumeHealth":                          {keys: []any{"name"}},
	coreModel + "PodVolumeHealth.healthConditions":                {keys: []any{"status", "reason"}},
	coreModel + "VolumeHealthStatus.healthConditions":             {keys: []any{"status", "reason"}},
	coreModel + "PodStatus.hostIPs":                               {how: "atomic"},
	coreModel + "VolumeMount.bindMountOptions":                    {how: "set"},
	coreModel + "PodSpec.nodeSelector":                            {how: "atomic"},
	coreModel + "ServiceSpec.selector":                            {how: "atomic"},
	coreModel + "ContainerRestartRuleOnExitCodes.values":          {how: "set"},
	coreModel + "NodeAllocatableResourceClaimStatus.containers":   {how: "set"},
	coreModel + "NodePodPreemptionPolicy.disableResizePreemption": {how: "set"},
	discoveryModel + "Endpoint.addresses":                         {how: "set"},
}

// keyDefaults are the defaults of fields that tell the elements of a list apart, and may be left out.
var keyDefaults = map[string]any{
	coreModel + "ContainerPort.protocol": "TCP",
	coreModel + "ServicePort.protocol":   "TCP",
}

// atomicStructs belong to one owner as a whole.
var atomicStructs = map[string]bool{
	coreModel + "SecretReference":           true,
	coreModel + "FileKeySelector":           true,
	coreModel + "ObjectFieldSelector":       true,
	coreModel + "ResourceFieldSelector":     true,
	coreModel + "ConfigMapKeySelector":      true,
	coreModel + "SecretKeySelector":         true,
	coreModel + "NodeSelector":              true,
	coreModel + "NodeSelectorTerm":          true,
	coreModel + "TopologySelectorTerm":      true,
	coreModel + "EvictionResponder":         true,
	coreModel + "EndpointAddress":           true,
	coreModel + "EndpointPort":              true,
	coreModel + "ObjectReference":           true,
	coreModel + "LocalObjectReference":      true,
	coreModel + "TypedLocalObjectReference": true,
	coreModel + "ScopeSelector":             true,
	discoveryModel + "EndpointPort":         true,
	metaModel + "OwnerReference":            true,
	metaModel + "LabelSelector":             true,
}
