#include "parallel/local_world.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <set>

#include "core/base/error.h"

namespace thimble {
namespace {

// What one rank has laid out for one operation. Its buffers are read without the lock, by `readers`
// ranks right now.
struct Posted {
  OpLabel label;
  std::vector<std::vector<Bytes>> send;
  int read_by = 0;
  int readers = 0;
};

struct Operation {
  std::vector<std::unique_ptr<Posted>> posts;  // by rank
  int left = 0;                                // ranks for which it is over
};

}  // namespace

struct LocalWorld::Board {
  int ranks = 1;
  std::chrono::milliseconds time_limit{};
  std::mutex mutex;
  std::condition_variable changed;
  std::string aborted;                           // empty: not
  std::map<std::int64_t, Operation> operations;  // by number
};

// One rank. Its operations make progress, in order, whenever it waits for any of them: a rank that
// waits for its second operation still serves the others' first.
class LocalWorld::Member final : public Communicator {
 public:
  Member(std::shared_ptr<Board> board, int rank) : board_(std::move(board)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return board_->ranks; }
  Traffic traffic() const override { return traffic_; }

  void set_time_limit(std::chrono::milliseconds limit) override {
    const std::lock_guard lock(board_->mutex);
    board_->time_limit = limit;
  }

  Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) override {
    traffic_.count(purpose, exchange);
    const std::lock_guard lock(board_->mutex);
    Operation& operation = board_->operations[started_];
    operation.posts.resize(rank_index(board_->ranks));
    operation.posts[rank_index(rank_)] =
        std::make_unique<Posted>(Posted{.label = label, .send = std::move(exchange.send)});
    Outstanding mine{.number = started_, .label = label, .receive = std::move(exchange.receive)};
    mine.done.assign(rank_index(board_->ranks), false);
    mine.done[rank_index(rank_)] = true;
    outstanding_.push_back(std::move(mine));
    board_->changed.notify_all();
    return Completion(std::make_unique<Waiting>(*this, started_++));
  }

  std::string failure() const override {
    const std::lock_guard lock(board_->mutex);
    return board_->aborted;
  }
  void abort(const std::string& reason) noexcept override {
    const std::lock_guard lock(board_->mutex);
    fail(reason.c_str());
  }

 private:
  struct Outstanding {
    std::int64_t number = 0;
    OpLabel label;
    std::vector<std::vector<MutableBytes>> receive;
    std::vector<bool> done;  // by rank: copied from
  };
  using Lock = std::unique_lock<std::mutex>;

  class Waiting final : public Completion::Work {
   public:
    Waiting(Member& member, std::int64_t number) : member_(member), number_(number) {}
    void wait() override { member_.wait_for(number_); }
    bool error_stays() const override { return true; }
    bool done() noexcept override { return member_.is_over(number_); }

   private:
    Member& member_;
    std::int64_t number_;
  };

  void wait_for(std::int64_t number) {
    Lock lock(board_->mutex);
    if (withdrawn_.erase(number) > 0) throw SystemError(board_->aborted);
    const auto deadline = std::chrono::steady_clock::now() + board_->time_limit;
    try {
      while (is_outstanding(number)) {
        if (!board_->aborted.empty()) throw SystemError(board_->aborted);
        if (progress(lock)) continue;
        if (board_->changed.wait_until(lock, deadline) == std::cv_status::timeout &&
            is_outstanding(number)) {
          throw SystemError(complaint(number));
        }
      }
    } catch (const std::exception& e) {
      fail(e.what());
      withdraw(lock);
      withdrawn_.erase(number);
      throw;
    }
  }

  // Does what wait_for() could do at once; false if it would block after that.
  bool is_over(std::int64_t number) noexcept {
    Lock lock(board_->mutex);
    try {
      while (board_->aborted.empty() && progress(lock)) continue;
    } catch (const std::exception& e) {
      fail(e.what());
    }
    if (!is_outstanding(number)) return true;
    return !board_->aborted.empty() && !is_read();
  }

  // With the lock; what is under way fails too.
  void fail(const char* reason) {
    if (board_->aborted.empty()) board_->aborted = reason;
    board_->changed.notify_all();
  }

  bool is_outstanding(std::int64_t number) const {
    return std::any_of(outstanding_.begin(), outstanding_.end(),
                       [&](const auto& o) { return o.number == number; });
  }

  // Copies whatever is laid out and ends what is complete; false if there was nothing to do.
  bool progress(Lock& lock) {
    bool moved = false;
    for (auto it = outstanding_.begin(); it != outstanding_.end();) {
      moved = copy_available(*it, lock) || moved;
      Operation& operation = board_->operations.at(it->number);
      const bool received = std::find(it->done.begin(), it->done.end(), false) == it->done.end();
      if (!received || operation.posts[rank_index(rank_)]->read_by < board_->ranks - 1) {
        ++it;
        continue;
      }
      if (++operation.left == board_->ranks) board_->operations.erase(it->number);
      it = outstanding_.erase(it);
      moved = true;
    }
    return moved;
  }

  bool copy_available(Outstanding& mine, Lock& lock) {
    bool moved = false;
    for (int from = 0; from < board_->ranks; ++from) {
      Posted* post = board_->operations.at(mine.number).posts[rank_index(from)].get();
      if (mine.done[rank_index(from)] || post == nullptr || !board_->aborted.empty()) continue;
      check_match(mine, *post, from);
      ++post->readers;
      lock.unlock();
      const auto& pieces = post->send[rank_index(rank_)];
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        if (!pieces[i].empty())
          std::memcpy(mine.receive[rank_index(from)][i].data(), pieces[i].data(), pieces[i].size());
      }
      lock.lock();
      --post->readers;
      ++post->read_by;
      mine.done[rank_index(from)] = true;
      moved = true;
      board_->changed.notify_all();
    }
    return moved;
  }

  void check_match(const Outstanding& mine, const Posted& post, int from) const {
    if (std::string_view(post.label.operation) != mine.label.operation ||
        post.label.subject != mine.label.subject) {
      throw_system("rank {} is at {}, rank {} at {}", rank_, describe_operation(mine.number, mine.label),
                   from, describe_operation(mine.number, post.label));
    }
    const auto& pieces = post.send[rank_index(rank_)];
    const auto& places = mine.receive[rank_index(from)];
    const bool fits = std::equal(pieces.begin(), pieces.end(), places.begin(), places.end(),
                                 [](Bytes a, MutableBytes b) { return a.size() == b.size(); });
    if (!fits) {
      throw_system("{}: rank {} sends rank {} other sizes than it expects",
                   describe_operation(mine.number, mine.label), from, rank_);
    }
  }

  // Whether another rank reads this one's buffers right now.
  bool is_read() const {
    return std::any_of(outstanding_.begin(), outstanding_.end(), [&](const auto& mine) {
      return board_->operations.at(mine.number).posts[rank_index(rank_)]->readers > 0;
    });
  }

  // After a failure: nobody may start to read this rank's buffers, and whoever reads them is waited
  // for. Who waits for one of these operations later has not got what it asked for either.
  void withdraw(Lock& lock) {
    board_->changed.wait(lock, [&] { return !is_read(); });
    for (const Outstanding& mine : outstanding_) withdrawn_.insert(mine.number);
    outstanding_.clear();
  }

  std::string complaint(std::int64_t number) const {
    const auto mine = std::find_if(outstanding_.begin(), outstanding_.end(),
                                   [&](const auto& o) { return o.number == number; });
    const Operation& operation = board_->operations.at(number);
    std::string absent;
    for (int from = 0; from < board_->ranks; ++from) {
      if (operation.posts[rank_index(from)] == nullptr)
        absent += fmt::format("{}{}", absent.empty() ? "" : ", ", from);
    }
    return fmt::format(
        "rank {} waited {} s for {}: {}", rank_,
        std::chrono::duration<double>(board_->time_limit).count(), describe_operation(number, mine->label),
        absent.empty() ? "its data was not taken" : "never entered by rank " + absent);
  }

  std::shared_ptr<Board> board_;
  int rank_;
  std::int64_t started_ = 0;
  Traffic traffic_;
  std::list<Outstanding> outstanding_;  // in the order of their numbers
  std::set<std::int64_t> withdrawn_;    // failed with another one; nobody has waited for them yet
};

LocalWorld::LocalWorld(int ranks, std::chrono::milliseconds time_limit)
    : board_(std::make_shared<Board>()) {
  TH_CHECK(ranks >= 1, "{} ranks", ranks);
  board_->ranks = ranks;
  board_->time_limit = time_limit;
}

LocalWorld::~LocalWorld() = default;

std::unique_ptr<Communicator> LocalWorld::communicator(int rank) {
  TH_CHECK(rank >= 0 && rank < board_->ranks, "rank {} of {}", rank, board_->ranks);
  return std::make_unique<Member>(board_, rank);
}

}  // namespace thimble
