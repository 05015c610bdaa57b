package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	networking "istio.io/api/networking/v1alpha3"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pilot/pkg/networking/util"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/host"
)

// client is a sidecar that asks for hosts.
type client struct {
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	Hosts     []string          `json:"hosts"`
}

// answers to one resolve: for each client, for each of its hosts.
type answers struct {
	Clients [][]inForce `json:"clients"`
}

// inForce is what one client gets for one host.
type inForce struct {
	Host string `json:"host"`
	// Service is namespace/name of what the host is to this client; none: it sees no such host.
	Service string `json:"service,omitempty"`
	// From are namespace/name of the DestinationRules that were merged into the one in force.
	From []string `json:"from,omitempty"`
	// TrafficPolicy of the one in force.
	TrafficPolicy json.RawMessage `json:"trafficPolicy,omitempty"`
	// Ports of the service that carry HTTP, or are sniffed for it.
	Ports []portInForce `json:"ports,omitempty"`
}

// portInForce says whose routes a port has, in the order in which they are tried.
type portInForce struct {
	Port int `json:"port"`
	// VirtualServices are namespace/name; none: Istio's own default route.
	VirtualServices []string `json:"virtualServices,omitempty"`
}

func resolve(asked world, clients []client) (answers, error) {
	environment, end, err := asked.build()
	if err != nil {
		return answers{}, err
	}
	defer end()
	push := model.NewPushContext()
	push.InitContext(environment, nil, nil)
	environment.SetPushContext(push)
	generator := core.NewConfigGenerator(&model.DisabledCache{})
	given := answers{Clients: make([][]inForce, 0, len(clients))}
	for _, one := range clients {
		proxy := one.proxy(environment, push)
		found := make([]inForce, 0, len(one.Hosts))
		for _, name := range one.Hosts {
			force, err := look(generator, push, proxy, name)
			if err != nil {
				return answers{}, err
			}
			found = append(found, force)
		}
		given.Clients = append(given.Clients, found)
	}
	return given, nil
}

func (c client) proxy(environment *model.Environment, push *model.PushContext) *model.Proxy {
	proxy := &model.Proxy{
		Type:            model.SidecarProxy,
		ID:              "client." + c.Namespace,
		ConfigNamespace: c.Namespace,
		DNSDomain:       c.Namespace + ".svc." + domain,
		Labels:          c.Labels,
		// No endpoint of any service: only what it calls is asked about.
		IPAddresses: []string{"192.0.2.1"},
		Metadata:    &model.NodeMetadata{Namespace: c.Namespace, Labels: c.Labels, IstioVersion: proxyVersion},
	}
	proxy.IstioVersion = model.ParseIstioVersion(proxyVersion)
	proxy.SetSidecarScope(push)
	proxy.SetServiceTargets(environment.ServiceDiscovery)
	proxy.DiscoverIPMode()
	return proxy
}

func look(generator *core.ConfigGeneratorImpl, push *model.PushContext, proxy *model.Proxy, name string) (inForce, error) {
	force := inForce{Host: name}
	service := proxy.SidecarScope.GetService(host.Name(name))
	if service == nil {
		return force, nil
	}
	force.Service = service.Attributes.Namespace + "/" + service.Attributes.Name
	if rule := proxy.SidecarScope.DestinationRule(model.TrafficDirectionOutbound, proxy, service.Hostname); rule != nil {
		for _, from := range rule.GetFrom() {
			force.From = append(force.From, from.String())
		}
		policy := rule.GetRule().Spec.(*networking.DestinationRule).GetTrafficPolicy()
		if policy != nil {
			text, err := config.ToJSON(policy)
			if err != nil {
				return inForce{}, err
			}
			force.TrafficPolicy = text
		}
	}
	for _, port := range service.Ports {
		if !port.Protocol.IsHTTPOrSniffed() {
			continue
		}
		names, err := routes(generator, push, proxy, service, port)
		if err != nil {
			return inForce{}, err
		}
		force.Ports = append(force.Ports, portInForce{Port: port.Port, VirtualServices: names})
	}
	return force, nil
}

// routes reads from the routes that the proxy would be sent whose they are: Istio writes the object into
// their metadata.
func routes(
	generator *core.ConfigGeneratorImpl, push *model.PushContext, proxy *model.Proxy, service *model.Service, port *model.Port,
) ([]string, error) {
	// A sniffed port has a listener for each service, and routes by its name.
	name := strconv.Itoa(port.Port)
	sniffed := port.Protocol.IsUnsupported()
	if sniffed {
		name = fmt.Sprintf("%s:%d", service.Hostname, port.Port)
	}
	resources, _ := generator.BuildHTTPRoutes(proxy, &model.PushRequest{Push: push, Forced: true}, []string{name})
	var names []string
	for _, resource := range resources {
		var table route.RouteConfiguration
		if err := resource.Resource.UnmarshalTo(&table); err != nil {
			return nil, err
		}
		for _, virtual := range table.VirtualHosts {
			// A listener of one service alone has routes for whatever it is called.
			if !sniffed && !slices.Contains(virtual.Domains, string(service.Hostname)) {
				continue
			}
			for _, one := range virtual.Routes {
				owner := owner(one)
				if owner != "" && !slices.Contains(names, owner) {
					names = append(names, owner)
				}
			}
		}
	}
	return names, nil
}

// owner is namespace/name of the VirtualService that a route is of.
func owner(one *route.Route) string {
	meta := one.GetMetadata().GetFilterMetadata()[util.IstioMetadataKey].GetFields()["config"].GetStringValue()
	_, rest, found := strings.Cut(meta, "/namespaces/")
	if !found {
		return ""
	}
	namespace, rest, _ := strings.Cut(rest, "/")
	return namespace + "/" + strings.TrimPrefix(rest, "virtual-service/")
}
