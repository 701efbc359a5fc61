// Package ingress is the door from outside: it leads HTTP requests, by host and path, to the endpoints of Services.
//
// It follows Ingresses, IngressClasses, Services, EndpointSlices and Secrets through a store.Reader, and serves on the listeners
// that are handed to Serve (plain HTTP) and ServeTLS (HTTPS, with the certificate of the name that the client asks for). All
// listeners share one table of hosts that never changes: a change makes another, in which only the hosts that it touches are new, and a
// request sees either the one or the other.
//
// The package has a pure half and an effect half. Pure: compile (Ingresses into Routes shaped like Gateway API's HTTPRoute:
// matches, filters, weighted backends), annotation (what ingress-nginx's users write), route (which rule takes a request),
// explain and describe (why), certs (which certificate a name gets), model and build (what a change touches). Effect: controller (follows the store), fast (HTTP/1.1), full (HTTP/2,
// gRPC), upstream (connections to endpoints), tunnel (WebSocket), status (addresses and events).
//
// HTTP/1.1 is read and written by fasthttp, HTTP/2 by net/http; both ask the same routes. Requests go to ready endpoints
// directly, not through the Service's address, unless an annotation says so.
//
// It will not buffer bodies, compress, cache, or send a request twice once its body has left.
package ingress
