#include "keeper/keeper_client.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/error.h"
#include "keeper/keeper_messages.h"

namespace thimble {
namespace {

using Json = nlohmann::json;

constexpr auto kStartInterval = std::chrono::milliseconds(20);
constexpr int kStartTries = 500;

// The program's command `keeper` leaves a process behind that is nobody's child, and returns.
void start_keeper(const KeeperOptions& options) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  std::vector<std::string> words{program,
                                 "keeper",
                                 options.run.string(),
                                 "--node",
                                 options.node,
                                 "--minutes",
                                 fmt::format("{}", options.minutes),
                                 "--write-rate",
                                 fmt::format("{}", options.write_rate),
                                 "--address",
                                 options.address};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = -1;
  const int error = ::posix_spawn(&child, program.c_str(), nullptr, nullptr, argv.data(), environ);
  if (error != 0)
    throw_system("{}: cannot be started as a keeper: {}", program, std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw_system("the keeper of {} did not start (status {})", options.run.string(), status);
}

}  // namespace

std::optional<KeeperClient> KeeperClient::find(const KeeperOptions& options, int rank) {
  std::optional<Channel> channel = Channel::connect_local(keeper_name(options.run, options.node));
  if (!channel) return std::nullopt;
  channel->set_time_limit(kKeeperLimitS);
  KeeperClient client(std::move(*channel));
  client.hello(rank);
  return client;
}

KeeperClient KeeperClient::find_or_start(const KeeperOptions& options, int rank) {
  for (int i = 0; i < kStartTries; ++i) {
    if (std::optional<KeeperClient> client = find(options, rank)) return std::move(*client);
    if (i % 50 == 0) start_keeper(options);
    std::this_thread::sleep_for(kStartInterval);
  }
  throw_system("the keeper of {} does not answer", options.run.string());
}

void KeeperClient::hello(int rank) {
  address_ =
      Json::parse(
          ask(Json{{"ask", kAskHello}, {"version", kKeeperVersion}, {"rank", rank}}.dump()).text)
          .at("address");
}

ChannelMessage KeeperClient::ask(const std::string& text, int descriptor) {
  try {
    channel_.send(text, descriptor);
  } catch (const SystemError&) {
    alive_ = false;
    throw;
  }
  ChannelMessage answer = next_answer();
  const Json json = Json::parse(answer.text);
  if (!json.value("ok", true)) throw_system("{}", json.value("error", "the keeper refuses"));
  return answer;
}

// Answers come in order; what a keeper says of itself may come between them.
ChannelMessage KeeperClient::next_answer() {
  while (true) {
    std::optional<ChannelMessage> message = channel_.receive();
    if (!message) {
      alive_ = false;
      throw_system("the keeper has ended, or does not know what it was asked");
    }
    if (auto outcome = outcome_of(message->text)) {
      outcomes_.push_back(std::move(*outcome));
    } else {
      return std::move(*message);
    }
  }
}

KeptMemory KeeperClient::look() {
  const Json all = Json::parse(ask(Json{{"ask", kAskLook}}.dump()).text);
  KeptMemory found{.ranks = {}, .saving_step = all.at("saving"), .worlds = {}};
  for (const std::string text : all.at("worlds")) found.worlds.push_back(parse_world(text));
  for (std::size_t i = 0; i < all.at("kept"); ++i) {
    ChannelMessage message = next_answer();
    found.ranks.emplace_back(Json::parse(message.text).at("rank"),
                             MemoryFile::adopt(std::move(message.descriptor)));
  }
  return found;
}

void KeeperClient::keep(int rank, std::uint64_t start, const MemoryFile& memory) {
  ask(Json{{"ask", kAskKeep}, {"rank", rank}, {"start", start}}.dump(), memory.descriptor());
}

void KeeperClient::drop_older() {
  ask(Json{{"ask", kAskDropOlder}}.dump());
}

void KeeperClient::forget() {
  ask(Json{{"ask", kAskForget}}.dump());
}

void KeeperClient::save(const SnapshotMoment& moment) {
  ask(Json{{"ask", kAskSave}, {"step", moment.step}, {"start", moment.start}}.dump());
}

std::int64_t KeeperClient::saving_step() {
  return Json::parse(ask(Json{{"ask", kAskSaving}}.dump()).text).at("saving");
}

void KeeperClient::meet(const std::string& secret) {
  ask(Json{{"ask", kAskMeet}, {"secret", secret}}.dump());
}

void KeeperClient::join(const KeeperWorld& world) {
  ask(Json{{"ask", kAskWorld}, {"world", world_text(world)}}.dump());
}

void KeeperClient::rebuild(const KeeperWorld& of, const SnapshotMoment& moment, int node,
                           const std::vector<std::string>& addresses) {
  ask(Json{{"ask", kAskRebuild},
           {"world", world_text(of)},
           {"step", moment.step},
           {"start", moment.start},
           {"node", node},
           {"addresses", addresses}}
          .dump());
}

void KeeperClient::finish() {
  ask(Json{{"ask", kAskFinish}}.dump());
}

// Nothing was asked, so what comes are outcomes, or the end.
void KeeperClient::take_events() {
  try {
    while (alive_ && channel_.has_message()) {
      const std::optional<ChannelMessage> message = channel_.receive();
      if (!message) {
        alive_ = false;
      } else if (auto outcome = outcome_of(message->text)) {
        outcomes_.push_back(std::move(*outcome));
      }
    }
  } catch (const std::exception&) {
    alive_ = false;
  }
}

std::optional<SaveOutcome> KeeperClient::take_outcome() {
  take_events();
  if (outcomes_.empty()) return std::nullopt;
  SaveOutcome outcome = std::move(outcomes_.front());
  outcomes_.pop_front();
  return outcome;
}

bool KeeperClient::is_alive() {
  take_events();
  return alive_;
}

}  // namespace thimble
