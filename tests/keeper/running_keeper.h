// A keeper on a thread of the test's process.
#pragma once

#include <future>
#include <thread>

#include "checkpoint/checkpoint_directory.h"
#include "core/base/error.h"
#include "keeper/keeper_client.h"
#include "tests/keeper/sample_snapshots.h"

namespace thimble {

class RunningKeeper {
 public:
  explicit RunningKeeper(double minutes = 10, const std::string& node = "n")
      : options_{.run = dir_.path(), .node = node, .minutes = minutes} {
    std::promise<void> ready;
    thread_ = std::thread([&] { ran_ = run_keeper(options_, [&] { ready.set_value(); }); });
    ready.get_future().wait();
  }
  ~RunningKeeper() {
    if (!thread_.joinable()) return;
    std::filesystem::remove_all(dir_.path());  // it ends with the run's directory
    try {
      if (auto client = KeeperClient::find(options_, -1)) client->finish();
    } catch (const SystemError&) {
      // It has ended already.
    }
    thread_.join();
  }
  KeeperClient client(int rank) { return KeeperClient::find(options_, rank).value(); }
  void join() { thread_.join(); }
  const KeeperOptions& options() const { return options_; }
  std::filesystem::path checkpoints() const { return dir_ / "checkpoints"; }
  bool ran() const { return ran_; }

  std::int64_t newest_step() const {
    const auto all = list_checkpoints(checkpoints());
    return all.empty() ? -1 : all.back().step;
  }

 private:
  testing::MemoryDir dir_;
  KeeperOptions options_;
  std::thread thread_;
  bool ran_ = false;
};

template <typename Condition>
bool comes_true(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace thimble
