#include "keeper/keeper.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <list>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/random.h"
#include "core/io/channel.h"
#include "keeper/keeper_messages.h"
#include "keeper/snapshot_saver.h"

namespace thimble {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr double kPatienceS = 10;   // for the rest of a message that has begun
constexpr int kIdleWaitMs = 500;    // between looks at the clock
constexpr int kPendingWaitMs = 10;  // until a snapshot that is to be saved is sealed
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

// A rank, or whoever asks.
struct Visitor {
  Channel channel;
  int rank = -1;  // not said yet
  bool gone = false;
};

class Keeper {
 public:
  Keeper(const KeeperOptions& options, ChannelListener listener)
      : options_(options), listener_(std::move(listener)), saver_([this] { wake_.ring(); }) {}

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
                                {wake_.descriptor(), POLLIN, 0}};
    for (const Visitor& visitor : visitors_)
      watched.push_back({visitor.channel.descriptor(), POLLIN, 0});
    ::poll(watched.data(), watched.size(), pending_ ? kPendingWaitMs : kIdleWaitMs);
    wake_.silence();
    if (watched[0].revents == 0) return;
    if (std::optional<Channel> channel = listener_.accept()) {
      channel->set_time_limit(kPatienceS);
      visitors_.push_back({std::move(*channel)});
    }
  }

  void serve(Visitor& visitor) {
    try {
      std::optional<ChannelMessage> message = visitor.channel.receive();
      if (!message) {
        visitor.gone = true;
        return;
      }
      answer(visitor, *message);
    } catch (const std::exception& e) {  // of one visitor; the others are served on
      spdlog::warn("rank {}: {}", visitor.rank, e.what());
      visitor.gone = true;
    }
  }

  void answer(Visitor& visitor, ChannelMessage& message) {
    const Json ask = Json::parse(message.text);
    const auto what = ask.at("ask").get<std::string>();
    failpoint("keeper.ask");
    if (what == kAskHello) {
      if (ask.at("version") != kKeeperVersion)
        throw_system("it speaks version {}, this keeper {}", ask.at("version").dump(),
                     kKeeperVersion);
      visitor.rank = ask.at("rank");
      had_ranks_ = true;
      persisted_ = false;
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
    } else if (what == kAskForget) {
      pending_.reset();
      wait_for_saver();
      kept_.clear();
    } else if (what == kAskSave) {
      pending_ = SnapshotMoment{ask.at("step"), ask.at("start")};
    } else if (what == kAskFinish) {
      finished_ = true;
    } else {
      throw_system("it asks for '{}'", what);
    }
    visitor.channel.send(Json{{"ok", true}}.dump());
  }

  void wait_for_saver() const {
    while (saver_.is_busy()) ::usleep(1000);
  }

  void show(Visitor& visitor) {
    Json all{{"kept", kept_.all().size()}, {"saving", kNoStep}};
    const std::optional<SnapshotMoment> saving = pending_ ? pending_ : saver_.saving();
    if (saving) all["saving"] = saving->step;
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

  // Nobody may come for what the ranks have left.
  void persist() {
    persisted_ = true;
    pending_.reset();
    std::vector<std::string> damaged;
    const auto newest = kept_.newest(damaged);
    for (const std::string& why : damaged) spdlog::warn("{}", why);
    if (!newest) return;
    const auto there = list_checkpoints(directory());
    if (!there.empty() && there.back().step >= newest->moment.step) return;
    spdlog::info("the ranks are gone: saving step {}", newest->moment.step);
    pending_ = newest->moment;
  }

  std::filesystem::path directory() const { return options_.run / "checkpoints"; }

  void save_pending() {
    if (!pending_ || saver_.is_busy()) return;
    std::vector<std::string> damaged;
    if (const auto place = kept_.find(*pending_, damaged)) {
      failpoint("keeper.save");
      saver_.save(*place, directory());
      pending_.reset();
    } else if (!damaged.empty()) {
      tell({.moment = *std::exchange(pending_, std::nullopt), .failure = damaged.front()});
    }
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
    return !has_ranks() && !pending_ &&
           std::chrono::duration<double>(Clock::now() - alone_since_).count() >
               options_.minutes * 60;
  }

  const KeeperOptions& options_;
  ChannelListener listener_;
  Wake wake_;
  std::list<Visitor> visitors_;
  KeptRanks kept_;
  std::uint64_t start_ = 0;
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
