// Command status500 is the replica that fails: it answers every request with 500. Beside healthy
// replicas behind one Service it is what outlier detection has to find.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"
)

func main() {
	address := flag.String("listen", ":8080", "address to serve on")
	flag.Parse()
	server := &http.Server{
		Addr:              *address,
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "this replica fails on purpose", http.StatusInternalServerError)
		}),
	}
	log.Fatal(server.ListenAndServe())
}
