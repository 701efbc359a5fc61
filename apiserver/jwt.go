package apiserver

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
)

// A token is a JWT signed with ECDSA on P-256 by the authority's key. Nothing else is ever accepted, whatever a token's header
// claims: that is why the few lines stand here and no library.

// halfSignature is the length of each of the two numbers of a signature, in bytes.
const halfSignature = 32

var errToken = errors.New("the token is not one of this cluster's")

// claims are what a ServiceAccount's token says.
type claims struct {
	Audience   audiences   `json:"aud"`
	Expiry     int64       `json:"exp,omitempty"`
	IssuedAt   int64       `json:"iat"`
	Issuer     string      `json:"iss"`
	ID         string      `json:"jti"`
	Kubernetes boundClaims `json:"kubernetes.io"`
	NotBefore  int64       `json:"nbf"`
	Subject    string      `json:"sub"`
}

type boundClaims struct {
	Namespace      string    `json:"namespace"`
	Node           *claimRef `json:"node,omitempty"`
	Pod            *claimRef `json:"pod,omitempty"`
	Secret         *claimRef `json:"secret,omitempty"`
	ServiceAccount claimRef  `json:"serviceaccount"`
}

type claimRef struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// audiences may be written as one text or a list of them.
type audiences []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audiences) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

var base64URL = base64.RawURLEncoding

// signToken makes a token of what it says.
func (a *Authority) signToken(c claims) (string, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := base64URL.EncodeToString([]byte(`{"alg":"ES256","kid":"`+a.keyID()+`"}`)) + "." + base64URL.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, a.caKey, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 2*halfSignature)
	r.FillBytes(signature[:halfSignature])
	s.FillBytes(signature[halfSignature:])
	return text + "." + base64URL.EncodeToString(signature), nil
}

// readToken returns what a token says, once its signature has been found good.
func (a *Authority) readToken(token string) (claims, error) {
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, errToken
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	if err := decodePart(parts[0], &header); err != nil || header.Algorithm != "ES256" {
		return c, errToken
	}
	signature, err := base64URL.DecodeString(parts[2])
	if err != nil || len(signature) != 2*halfSignature {
		return c, errToken
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:halfSignature]), new(big.Int).SetBytes(signature[halfSignature:])
	if !ecdsa.Verify(&a.caKey.PublicKey, sum[:], r, s) {
		return c, errToken
	}
	if err := decodePart(parts[1], &c); err != nil {
		return c, errToken
	}
	return c, nil
}

func decodePart(part string, into any) error {
	b, err := base64URL.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// keyID names the key that signs tokens, as Kubernetes does: the hash of its public half.
func (a *Authority) keyID() string {
	der, err := x509.MarshalPKIXPublicKey(&a.caKey.PublicKey)
	if err != nil {
		panic(err) // a key on P-256 always encodes
	}
	sum := sha256.Sum256(der)
	return base64URL.EncodeToString(sum[:])
}

// keySet is the public half of the key that signs tokens, for whoever checks them.
func (a *Authority) keySet() map[string]any {
	point, err := a.caKey.PublicKey.Bytes()
	if err != nil {
		panic(err) // a key on P-256 always encodes
	}
	x, y := point[1:1+halfSignature], point[1+halfSignature:]
	return map[string]any{"keys": []map[string]any{{
		"use": "sig", "kty": "EC", "kid": a.keyID(), "crv": "P-256", "alg": "ES256",
		"x": base64URL.EncodeToString(x), "y": base64URL.EncodeToString(y),
	}}}
}
