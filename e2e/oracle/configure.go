package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	clusters "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pilot/pkg/networking/util"
)

// configurations are the answer to one configure: for each client.
type configurations struct {
	Clients []configuration `json:"clients"`
}

// configuration is what a client's Envoy would be sent, but for the names of the objects that it is made of.
type configuration struct {
	// Clusters by name.
	Clusters map[string]json.RawMessage `json:"clusters"`
	// Routes by the name of their table.
	Routes map[string]json.RawMessage `json:"routes"`
}

func configure(asked world, clients []client) (configurations, error) {
	environment, end, err := asked.build()
	if err != nil {
		return configurations{}, err
	}
	defer end()
	push := model.NewPushContext()
	push.InitContext(environment, nil, nil)
	environment.SetPushContext(push)
	generator := core.NewConfigGenerator(&model.DisabledCache{})
	given := configurations{Clients: make([]configuration, 0, len(clients))}
	for _, one := range clients {
		sent, err := send(generator, push, one.proxy(environment, push))
		if err != nil {
			return configurations{}, err
		}
		given.Clients = append(given.Clients, sent)
	}
	return given, nil
}

func send(generator *core.ConfigGeneratorImpl, push *model.PushContext, proxy *model.Proxy) (configuration, error) {
	sent := configuration{Clusters: map[string]json.RawMessage{}, Routes: map[string]json.RawMessage{}}
	request := &model.PushRequest{Push: push, Forced: true}
	built, _ := generator.BuildClusters(proxy, request)
	for _, resource := range built {
		var one clusters.Cluster
		if err := resource.Resource.UnmarshalTo(&one); err != nil {
			return sent, err
		}
		anonymous(one.Metadata)
		if err := put(sent.Clusters, one.Name, &one); err != nil {
			return sent, err
		}
	}
	tables, _ := generator.BuildHTTPRoutes(proxy, request, tables(proxy))
	for _, resource := range tables {
		var one route.RouteConfiguration
		if err := resource.Resource.UnmarshalTo(&one); err != nil {
			return sent, err
		}
		for _, virtual := range one.VirtualHosts {
			for _, way := range virtual.Routes {
				anonymous(way.Metadata)
				way.Name = ""
			}
		}
		if err := put(sent.Routes, one.Name, &one); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// tables are the names by which a sidecar asks for routes: a port's, and for a sniffed one each service's.
func tables(proxy *model.Proxy) []string {
	var names []string
	for _, service := range proxy.SidecarScope.Services() {
		for _, port := range service.Ports {
			if port.Protocol.IsUnsupported() {
				names = append(names, fmt.Sprintf("%s:%d", service.Hostname, port.Port))
			} else if port.Protocol.IsHTTP() {
				names = append(names, strconv.Itoa(port.Port))
			}
		}
	}
	return names
}

// anonymous takes away of which object a thing is.
func anonymous(metadata *envoy.Metadata) {
	delete(metadata.GetFilterMetadata()[util.IstioMetadataKey].GetFields(), "config")
}

func put(into map[string]json.RawMessage, name string, message proto.Message) error {
	text, err := protojson.Marshal(message)
	into[name] = text
	return err
}
