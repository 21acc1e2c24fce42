// The Go library centrifuge with its memory broker, no history: it only broadcasts. The
// server numbers the messages of a channel, as its phones expect it.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"sync"

	"github.com/centrifugal/centrifuge"
)

type owner struct {
	ID       int    `json:"id"`
	Username string `json:"username"`
}

type message struct {
	ID       int64  `json:"id"`
	StampID  string `json:"stamp_id"`
	TopicID  int64  `json:"topic_id"`
	Owner    owner  `json:"owner"`
	ReplyTo  *int64 `json:"reply_to"`
	Body     string `json:"body"`
	Attrs    *int64 `json:"attrs"`
	SentAt   int64  `json:"sent_at"`
	HasMedia bool   `json:"has_media"`
	Seq      int64  `json:"seq"`
}

type topics struct {
	mutex sync.Mutex
	seqs  map[string]int64
}

func main() {
	node, err := centrifuge.New(centrifuge.Config{
		LogLevel: centrifuge.LogLevelError,
		// All topics of a client of a load may be many.
		ClientChannelLimit: 100000,
	})
	if err != nil {
		log.Fatal(err)
	}
	known := topics{seqs: map[string]int64{}}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "15"}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
		client.OnPublish(func(event centrifuge.PublishEvent, done centrifuge.PublishCallback) {
			m := message{Owner: owner{15, "user15"}, SentAt: 1455667133264}
			if err := json.Unmarshal(event.Data, &m); err != nil {
				done(centrifuge.PublishReply{}, centrifuge.ErrorBadRequest)
				return
			}
			// Numbered and published under one lock: one order.
			known.mutex.Lock()
			defer known.mutex.Unlock()
			known.seqs[event.Channel]++
			m.Seq = known.seqs[event.Channel]
			m.ID = 1000000 + m.Seq
			data, err := json.Marshal(m)
			if err != nil {
				done(centrifuge.PublishReply{}, centrifuge.ErrorInternal)
				return
			}
			result, err := node.Publish(event.Channel, data)
			done(centrifuge.PublishReply{Result: &result}, err)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	http.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		UseWriteBufferPool: true,
		CheckOrigin:        func(*http.Request) bool { return true },
	}))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
