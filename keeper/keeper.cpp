#include "keeper/keeper.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <list>
#include <nlohmann/json.hpp>
#include <thread>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/random.h"
#include "core/io/channel.h"
#include "keeper/keeper_messages.h"
#include "keeper/peer_service.h"
#include "keeper/snapshot_saver.h"

namespace thimble {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr double kPatienceS = 10;     // for the rest of a message that has begun
constexpr int kIdleWaitMs = 500;      // between looks at the clock
constexpr int kNewsWaitMs = 10;       // until a snapshot is sealed for which something waits
constexpr double kWithNothingS = 20;  // that it waits for ranks if it keeps nothing for them
constexpr auto kLongestGather = std::chrono::seconds(20);
constexpr std::int64_t kNoStep = -1;

volatile sig_atomic_t told_to_end = 0;
extern "C" void note_end(int) {
  told_to_end = 1;
}

// Wakes the loop from another thread.
class Wake {
 public:
  Wake() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_) throw_errno("eventfd", "keeper");
  }
  void ring() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = ::write(event_.get(), &one, sizeof(one));
  }
  void silence() const {
    std::uint64_t rung = 0;
    [[maybe_unused]] const ssize_t got = ::read(event_.get(), &rung, sizeof(rung));
  }
  int descriptor() const { return event_.get(); }

 private:
  FileDescriptor event_;
};

// A rank, another keeper, or whoever asks.
struct Visitor {
  Channel channel;
  bool is_near = true;    // a process of this user on this machine
  bool is_known = false;  // from elsewhere: it has shown the secret
  int rank = -1;          // not said yet
  bool gone = false;
};

class Keeper {
 public:
  Keeper(const KeeperOptions& options, ChannelListener listener)
      : options_(options),
        listener_(std::move(listener)),
        peers_listener_(ChannelListener::listen_tcp(options.address)),
        peers_(kept_),
        saver_([this] { wake_.ring(); }, options.write_rate) {}

  void run() {
    while (!is_over()) {
      wait();
      for (Visitor& visitor : visitors_) {
        if (visitor.channel.has_message()) serve(visitor);
      }
      forget_gone();
      save_pending();
      report_outcome();
    }
  }

 private:
  bool has_ranks() const {
    return std::any_of(visitors_.begin(), visitors_.end(),
                       [](const Visitor& v) { return v.rank >= 0; });
  }

  void wait() {
    std::vector<pollfd> watched{{listener_.descriptor(), POLLIN, 0},
                                {peers_listener_.descriptor(), POLLIN, 0},
                                {wake_.descriptor(), POLLIN, 0}};
    for (const Visitor& visitor : visitors_)
      watched.push_back({visitor.channel.descriptor(), POLLIN, 0});
    const bool news_come = peers_.look() && has_ranks();
    ::poll(watched.data(), watched.size(), pending_ || news_come ? kNewsWaitMs : kIdleWaitMs);
    wake_.silence();
    if (watched[0].revents != 0) welcome(listener_, true);
    if (watched[1].revents != 0) welcome(peers_listener_, false);
  }

  void welcome(ChannelListener& listener, bool is_near) {
    if (std::optional<Channel> channel = listener.accept()) {
      channel->set_time_limit(kPatienceS);
      visitors_.push_back({.channel = std::move(*channel), .is_near = is_near});
    }
  }

  void serve(Visitor& visitor) {
    try {
      std::optional<ChannelMessage> message = visitor.channel.receive();
      if (!message) {
        visitor.gone = true;
        return;
      }
      if (visitor.is_near) {
        answer_or_refuse(visitor, *message);
      } else if (visitor.is_known) {
        peers_.answer(visitor.channel, *message);
      } else {
        let_in(visitor, *message);
      }
    } catch (const std::exception& e) {  // of one visitor; the others are served on
      spdlog::warn("{}: {}",
                   visitor.is_near ? fmt::format("rank {}", visitor.rank) : "another keeper",
                   e.what());
      visitor.gone = true;
    }
  }

  // What cannot be done is told; the rank may ask for something else.
  void answer_or_refuse(Visitor& visitor, ChannelMessage& message) {
    std::string refusal;
    try {
      answer(visitor, message);
      return;
    } catch (const SystemError& e) {
      spdlog::warn("rank {}: {}", visitor.rank, e.what());
      refusal = e.what();
    }
    const Json reply{{"ok", false}, {"error", refusal}};
    visitor.channel.send(reply.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  void let_in(Visitor& visitor, const ChannelMessage& message) {
    const Json said = Json::parse(message.text);
    visitor.is_known = message.payload_bytes == 0 && said.at("version") == kKeeperVersion &&
                       peers_.knows(said.at("peer"));
    if (!visitor.is_known) throw_system("it does not show the secret of this run's keepers");
  }

  void answer(Visitor& visitor, ChannelMessage& message) {
    const Json ask = Json::parse(message.text);
    Json reply{{"ok", true}};
    const auto what = ask.at("ask").get<std::string>();
    failpoint("keeper.ask");
    if (what == kAskHello) {
      if (ask.at("version") != kKeeperVersion)
        throw_system("it speaks version {}, this keeper {}", ask.at("version").dump(),
                     kKeeperVersion);
      visitor.rank = ask.at("rank");
      had_ranks_ = true;
      persisted_ = false;
      reply["address"] = peers_listener_.address();
    } else if (what == kAskLook) {
      return show(visitor);
    } else if (what == kAskKeep) {
      const auto start = ask.at("start").get<std::uint64_t>();
      if (start != start_) kept_.make_older();
      start_ = start;
      kept_.keep(ask.at("rank"), MemoryFile::adopt(std::move(message.descriptor)));
    } else if (what == kAskDropOlder) {
      wait_for_saver();
      kept_.drop_older();
      peers_.drop_older(start_);
    } else if (what == kAskForget) {
      pending_.reset();
      wait_for_saver();
      kept_.clear();
      peers_.forget();
    } else if (what == kAskMeet) {
      peers_.meet(ask.at("secret"));
    } else if (what == kAskWorld) {
      peers_.join(parse_world(ask.at("world")));
    } else if (what == kAskRebuild) {
      peers_.rebuild_here(parse_world(ask.at("world")), {ask.at("step"), ask.at("start")},
                          ask.at("node"), ask.at("addresses"));
    } else if (what == kAskSave) {
      pending_ = SnapshotMoment{ask.at("step"), ask.at("start")};
      unsaved_signature_ = 1;
    } else if (what == kAskSaving) {
      reply["saving"] = saving_step();
    } else if (what == kAskFinish) {
      finished_ = true;
    } else {
      throw_system("it asks for '{}'", what);
    }
    visitor.channel.send(reply.dump());
  }

  void wait_for_saver() const {
    while (saver_.is_busy()) ::usleep(1000);
  }

  std::int64_t saving_step() const {
    const std::optional<SnapshotMoment> saving = pending_ ? pending_ : saver_.saving();
    return saving ? saving->step : kNoStep;
  }

  void show(Visitor& visitor) {
    const Json all{
        {"kept", kept_.all().size()}, {"saving", saving_step()}, {"worlds", peers_.worlds()}};
    visitor.channel.send(all.dump());
    for (const auto& kept : kept_.all())
      visitor.channel.send(Json{{"rank", kept->rank}}.dump(), kept->memory.descriptor());
  }

  void forget_gone() {
    std::erase_if(visitors_, [](const Visitor& v) { return v.gone; });
    if (has_ranks()) {
      alone_since_ = Clock::now();
      return;
    }
    if (had_ranks_ && !finished_ && !persisted_) persist();
  }

  // Nobody may come for what the ranks have left. Of several nodes the first one saves.
  void persist() {
    persisted_ = true;
    pending_.reset();
    const auto newest = newest_here();
    if (!newest) return;
    const KeeperWorld* world = peers_.world(newest->start);
    if (world != nullptr && world->me != 0) return;
    const auto there = list_checkpoints(directory());
    if (!there.empty() && there.back().step >= newest->step) return;
    spdlog::info("the ranks are gone: saving step {}", newest->step);
    pending_ = *newest;
    unsaved_signature_ = 1;
  }

  // The newest moment of which this node's ranks are all here.
  std::optional<SnapshotMoment> newest_here() const {
    std::vector<std::string> damaged;
    const auto all = kept_.whole(damaged);
    for (const std::string& why : damaged) spdlog::warn("{}", why);
    for (const KeptRanks::Whole& found : all) {
      if (kept_.here(found.moment).slots.size() == ranks_here(found)) return found.moment;
    }
    return std::nullopt;
  }

  // How many ranks of a moment's start are on this node.
  std::size_t ranks_here(const KeptRanks::Whole& of) const {
    const KeeperWorld* world = peers_.world(of.moment.start);
    return world == nullptr ? static_cast<std::size_t>(of.ranks)
                            : world->nodes[static_cast<std::size_t>(world->me)].ranks.size();
  }

  std::filesystem::path directory() const { return options_.run / "checkpoints"; }

  void save_pending() {
    if (!pending_ || saver_.is_busy() || kept_.signature() == unsaved_signature_) return;
    unsaved_signature_ = kept_.signature();
    std::vector<std::string> damaged;
    const auto all = kept_.whole(damaged);
    const auto one = std::find_if(all.begin(), all.end(), [this](const KeptRanks::Whole& found) {
      return found.moment == *pending_;
    });
    if (one != all.end() && kept_.here(*pending_).slots.size() == ranks_here(*one)) {
      failpoint("keeper.save");
      const MomentPlace place = kept_.here(*pending_);
      saver_.save(place, gathering(place), directory());
      pending_.reset();
    } else if (!damaged.empty()) {
      tell({.moment = *std::exchange(pending_, std::nullopt), .failure = damaged.front()});
    }
  }

  // Ranks of other nodes may be about to seal theirs.
  SnapshotSaver::Gather gathering(const MomentPlace& place) const {
    const KeeperWorld* world = peers_.world(place.moment.start);
    const auto of = world == nullptr ? std::nullopt : std::optional(*world);
    return [place, of] {
      const auto end = Clock::now() + kLongestGather;
      while (true) {
        std::vector<SnapshotPart> parts;
        for (const SealedSnapshot& found : snapshots_of(place)) parts.push_back(part_of(found));
        if (of) {
          for (SnapshotPart& part : parts_elsewhere(*of, place.moment))
            parts.push_back(std::move(part));
        }
        if (!of || parts.size() == static_cast<std::size_t>(of->ranks()) || Clock::now() > end)
          return parts;
        std::this_thread::sleep_for(std::chrono::milliseconds(kNewsWaitMs));
      }
    };
  }

  void report_outcome() {
    if (const std::optional<SaveOutcome> outcome = saver_.take_outcome()) tell(*outcome);
  }

  void tell(const SaveOutcome& outcome) {
    if (outcome.failure.empty()) {
      spdlog::info("step {}: saved {} in {:.2f} s", outcome.moment.step, outcome.path.string(),
                   outcome.seconds);
    } else {
      spdlog::warn("step {}: not saved: {}", outcome.moment.step, outcome.failure);
    }
    for (Visitor& visitor : visitors_) {
      if (visitor.rank != 0) continue;
      try {
        visitor.channel.send(text_of(outcome));
      } catch (const SystemError&) {
        visitor.gone = true;
      }
    }
  }

  bool is_over() {
    if (saver_.is_busy()) return false;
    if (finished_) return !pending_;
    if (told_to_end != 0) {
      if (!persisted_) persist();
      return !pending_;
    }
    std::error_code ignored;
    if (!std::filesystem::exists(options_.run, ignored)) return true;
    if (has_ranks() || pending_) return false;
    const double alone_s = std::chrono::duration<double>(Clock::now() - alone_since_).count();
    return alone_s > options_.minutes * 60 || (alone_s > kWithNothingS && !newest_here());
  }

  const KeeperOptions& options_;
  ChannelListener listener_, peers_listener_;
  Wake wake_;
  std::list<Visitor> visitors_;
  KeptRanks kept_;
  PeerService peers_;
  std::uint64_t start_ = 0;
  std::uint64_t unsaved_signature_ = 1;    // of what is kept, when it was not what is to be saved
  std::optional<SnapshotMoment> pending_;  // to be saved
  bool had_ranks_ = false, finished_ = false;
  bool persisted_ = false;  // what the ranks left when they went
  Clock::time_point alone_since_ = Clock::now();
  SnapshotSaver saver_;  // last: it reads what is kept
};

}  // namespace

std::string keeper_name(const std::filesystem::path& run, const std::string& node) {
  const std::string of = std::filesystem::weakly_canonical(run).string() + "\n" + node;
  return fmt::format("thimble-keeper-{}-{:016x}", ::geteuid(), hash_name(of));
}

bool run_keeper(const KeeperOptions& options, const std::function<void()>& ready) {
  auto listener = ChannelListener::listen_local(keeper_name(options.run, options.node));
  if (!listener) return false;
  struct sigaction action {};
  action.sa_handler = note_end;
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaction(number, &action, nullptr);
  ready();
  spdlog::info("keeper of {} on {}, process {}", options.run.string(), options.node, ::getpid());
  Keeper(options, std::move(*listener)).run();
  spdlog::info("the keeper ends");
  return true;
}

}  // namespace thimble
