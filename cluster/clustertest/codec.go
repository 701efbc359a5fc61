package clustertest

import (
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"kubarium.dev/api"
)

var codecs = serializer.NewCodecFactory(api.Scheme)
