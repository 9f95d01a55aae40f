#include "parallel/mpi_world.h"

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/random.h"

namespace thimble {
namespace {

// Counts are int: larger pieces travel as several messages.
constexpr std::size_t kMostMessageBytes = std::size_t{1} << 30;
constexpr int kTags = 32000;  // every MPI has at least 32767
// After an error of this rank: what the others are owed of operations under way they take, if they
// get there by then. Freed before, it would be their errors that are told, instead of this one.
constexpr auto kFarewell = std::chrono::seconds(5);
constexpr auto kShortestSleep = std::chrono::microseconds(20),
               kLongestSleep = std::chrono::microseconds(500);

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw_system("{}: {}", call, std::string(text.data(), static_cast<std::size_t>(length)));
}

std::uint64_t hash_of(const OpLabel& label) {
  std::uint64_t h = 0;
  for (const char* c = label.operation; *c != 0; ++c) h = mix64(h, static_cast<std::uint64_t>(*c));
  for (const char c : label.subject)
    h = mix64(h, static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
  return h;
}

using Clock = std::chrono::steady_clock;

std::int64_t nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

// What precedes the data of an operation, so that ranks that have come apart notice.
struct Header {
  std::uint64_t label = 0;
  std::int64_t number = 0;
  std::int64_t bytes = 0;
};

struct Message {
  int peer = 0;
  bool incoming = false;
  std::size_t bytes = 0;
};

struct MpiOperation {
  std::int64_t number = 0;
  OpLabel label;
  Purpose purpose = Purpose::kControl;
  Clock::time_point posted;
  Exchange exchange{0};
  std::int64_t sent_bytes = 0;
  std::vector<Header> out, in;  // by rank
  std::vector<MPI_Request> requests;
  std::vector<Message> messages;  // of each request
  std::size_t open = 0;
  std::vector<int>
      open_from;  // by rank, incoming; guarded by the world's mutex, as is what follows
  std::string error;
  bool done = false;
  bool taken = false;  // from the queue: messages may be under way
};

}  // namespace

class MpiWorld final : public Communicator {
 public:
  MpiWorld(std::chrono::milliseconds time_limit, OpListener listener)
      : time_limit_(time_limit), listener_(std::move(listener)), thread_([this] { serve(); }) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ready_ || !failure_.empty(); });
    if (!ready_) {
      lock.unlock();
      thread_.join();
      throw SystemError(failure_);
    }
  }

  ~MpiWorld() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  OpListener listener() const override { return listener_; }
  Traffic traffic() const override {
    const std::lock_guard lock(mutex_);
    return traffic_;
  }

  void set_time_limit(std::chrono::milliseconds limit) override {
    const std::lock_guard lock(mutex_);
    time_limit_ = limit;
  }

  Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) override {
    if (size_ == 1) return {};
    auto operation = std::make_shared<MpiOperation>();
    operation->label = label;
    operation->purpose = purpose;
    Traffic sent;
    sent.count(purpose, exchange);
    operation->sent_bytes = sent.tensor_bytes + sent.control_bytes;
    operation->exchange = std::move(exchange);
    const std::lock_guard lock(mutex_);
    traffic_.count(purpose, operation->exchange);
    operation->number = started_++;
    queue_.push_back(operation);
    changed_.notify_all();
    return Completion(std::make_unique<Waiting>(*this, std::move(operation)));
  }

  std::string failure() const override {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  void abort(const std::string& reason) noexcept override {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) {
      failure_ = reason;
      last_moment_ = Clock::now() + kFarewell;
    }
    changed_.notify_all();
  }

 private:
  class Waiting final : public Completion::Work {
   public:
    Waiting(MpiWorld& world, std::shared_ptr<MpiOperation> operation)
        : world_(world), operation_(std::move(operation)) {}
    void wait() override { world_.wait_for(*operation_); }
    bool error_stays() const override { return true; }
    bool done() noexcept override {
      const std::lock_guard lock(world_.mutex_);
      const bool given_up = !world_.failure_.empty() && !operation_->taken;
      return operation_->done || given_up || world_.stopped_;
    }

   private:
    MpiWorld& world_;
    std::shared_ptr<MpiOperation> operation_;
  };

  void wait_for(MpiOperation& operation) {
    const auto start = Clock::now();
    std::unique_lock lock(mutex_);
    const bool ended =
        changed_.wait_for(lock, time_limit_, [&] { return operation.done || !failure_.empty(); });
    if (!ended) failure_ = complaint(operation);
    if (!operation.error.empty() && failure_.empty()) failure_ = operation.error;
    if (operation.purpose == Purpose::kTensor) traffic_.waited_ns += nanoseconds_since(start);
    if (failure_.empty()) return;
    changed_.notify_all();
    // The buffers may go away now: no message may write to them any more.
    changed_.wait(lock, [&] { return operation.done || !operation.taken || stopped_; });
    throw SystemError(failure_);
  }

  std::string complaint(const MpiOperation& operation) const {
    std::string names;
    for (std::size_t r = 0; r < operation.open_from.size(); ++r) {
      if (operation.open_from[r] > 0) names += fmt::format("{}{}", names.empty() ? "" : ", ", r);
    }
    return fmt::format("rank {} waited {} s for {} ({} sent): {}", rank_,
                       std::chrono::duration<double>(time_limit_).count(),
                       describe_operation(operation.number, operation.label),
                       format_bytes(operation.sent_bytes),
                       names.empty() ? "its data was not taken" : "never entered by rank " + names);
  }

  // The thread that speaks MPI.
  void serve() noexcept {
    try {
      int provided = 0;
      check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided),
                "MPI_Init_thread");
      MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
      MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
      MPI_Comm_size(MPI_COMM_WORLD, &size_);
      const std::lock_guard lock(mutex_);
      ready_ = true;
      changed_.notify_all();
    } catch (const std::exception& e) {
      abort(e.what());
      return;
    }
    try {
      loop();
    } catch (const std::exception& e) {
      abort(e.what());
    }
    std::unique_lock lock(mutex_);
    const bool failed = !failure_.empty();
    stopped_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return closing_; });
    if (failed) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
  }

  void loop() {
    std::list<std::shared_ptr<MpiOperation>> active;
    auto sleep = kShortestSleep;
    while (true) {
      std::deque<std::shared_ptr<MpiOperation>> fresh;
      {
        std::unique_lock lock(mutex_);
        if (active.empty()) {
          changed_.wait(lock, [&] { return !queue_.empty() || closing_ || !failure_.empty(); });
        }
        if (closing_ && queue_.empty() && active.empty()) return;
        if (failure_.empty()) {
          fresh.swap(queue_);
          for (const auto& operation : fresh) operation->taken = true;
        } else if (active.empty() || Clock::now() > last_moment_) {
          return;
        }
      }
      for (auto& operation : fresh) {
        post(*operation);
        active.push_back(std::move(operation));
      }
      bool moved = !fresh.empty();
      for (auto it = active.begin(); it != active.end();) {
        moved = progress(**it) || moved;
        it = (*it)->done ? active.erase(it) : std::next(it);
      }
      if (moved) {
        sleep = kShortestSleep;
      } else {
        std::this_thread::sleep_for(sleep);
        sleep = std::min(sleep * 2, kLongestSleep);
      }
    }
  }

  void post(MpiOperation& op) {
    if (listener_) listener_({OpChannel::kProcesses, op.number, op.label, op.sent_bytes, false});
    op.posted = Clock::now();
    op.out.resize(rank_index(size_));
    op.in.resize(rank_index(size_));
    const int tag = static_cast<int>(op.number % kTags);
    const auto add = [&](int peer, bool incoming, void* data, std::size_t bytes) {
      MPI_Request request = MPI_REQUEST_NULL;
      const int count = static_cast<int>(bytes);
      check_mpi(incoming ? MPI_Irecv(data, count, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request)
                         : MPI_Isend(data, count, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request),
                incoming ? "MPI_Irecv" : "MPI_Isend");
      op.requests.push_back(request);
      op.messages.push_back({peer, incoming, bytes});
    };
    const auto add_pieces = [&](int peer, bool incoming, const auto& pieces) {
      for (const auto piece : pieces) {
        auto* data = const_cast<std::byte*>(piece.data());
        for (std::size_t at = 0; at < piece.size(); at += kMostMessageBytes) {
          add(peer, incoming, data + at, std::min(kMostMessageBytes, piece.size() - at));
        }
      }
    };
    // Each rank begins with its neighbour, so that not all of them send to rank 0 first.
    for (int step = 1; step < size_; ++step) {
      const int from = (rank_ - step + size_) % size_;
      add(from, true, &op.in[rank_index(from)], sizeof(Header));
      add_pieces(from, true, op.exchange.receive[rank_index(from)]);
    }
    for (int step = 1; step < size_; ++step) {
      const int to = (rank_ + step) % size_;
      Header& header = op.out[rank_index(to)];
      header = {hash_of(op.label), op.number, 0};
      for (const Bytes piece : op.exchange.send[rank_index(to)])
        header.bytes += static_cast<std::int64_t>(piece.size());
      add(to, false, &header, sizeof(Header));
      add_pieces(to, false, op.exchange.send[rank_index(to)]);
    }
    op.open = op.requests.size();
    const std::lock_guard lock(mutex_);
    op.open_from.assign(rank_index(size_), 0);
    for (const Message& m : op.messages) op.open_from[rank_index(m.peer)] += m.incoming ? 1 : 0;
  }

  // False if nothing happened.
  bool progress(MpiOperation& op) {
    std::vector<int> finished(op.requests.size());
    std::vector<MPI_Status> statuses(op.requests.size());
    int count = 0;
    const int code = MPI_Testsome(static_cast<int>(op.requests.size()), op.requests.data(), &count,
                                  finished.data(), statuses.data());
    if (code != MPI_ERR_IN_STATUS) check_mpi(code, "MPI_Testsome");
    if (count == MPI_UNDEFINED) count = 0;
    std::string error;
    const std::lock_guard lock(mutex_);
    for (int i = 0; i < count; ++i) {
      const Message& message =
          op.messages[static_cast<std::size_t>(finished[static_cast<std::size_t>(i)])];
      op.open_from[rank_index(message.peer)] -= message.incoming ? 1 : 0;
      int got = 0;
      MPI_Get_count(&statuses[static_cast<std::size_t>(i)], MPI_BYTE, &got);
      const bool bad = code == MPI_ERR_IN_STATUS &&
                       statuses[static_cast<std::size_t>(i)].MPI_ERROR != MPI_SUCCESS;
      if (message.incoming && (bad || static_cast<std::size_t>(got) != message.bytes)) {
        error = fmt::format("{}: rank {} sends rank {} other sizes than it expects",
                            describe_operation(op.number, op.label), message.peer, rank_);
      }
    }
    op.open -= static_cast<std::size_t>(count);
    if (op.open == 0 && error.empty()) error = header_error(op);
    if (op.open > 0 && error.empty()) return count > 0;
    if (listener_ && error.empty())
      listener_({OpChannel::kProcesses, op.number, op.label, op.sent_bytes, true});
    op.error = error;
    if (!error.empty() && failure_.empty()) failure_ = error;
    op.done = op.open == 0;
    if (op.done && op.purpose == Purpose::kTensor) traffic_.busy_ns += nanoseconds_since(op.posted);
    changed_.notify_all();
    return true;
  }

  std::string header_error(const MpiOperation& op) const {
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      const Header& h = op.in[rank_index(r)];
      if (h.label != hash_of(op.label) || h.number != op.number) {
        return fmt::format("rank {} is at {}, rank {} at operation #{}, another one", rank_,
                           describe_operation(op.number, op.label), r, h.number);
      }
    }
    return {};
  }

  std::chrono::milliseconds time_limit_;
  const OpListener listener_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false, closing_ = false, stopped_ = false;
  std::string failure_;
  Clock::time_point last_moment_;  // until when operations under way go on after a failure
  std::deque<std::shared_ptr<MpiOperation>> queue_;
  std::int64_t started_ = 0;
  Traffic traffic_;
  int rank_ = 0, size_ = 1;
  std::thread thread_;
};

bool mpi_available() {
  return true;
}

std::unique_ptr<Communicator> make_mpi_world(std::chrono::milliseconds time_limit,
                                             OpListener listener) {
  return std::make_unique<MpiWorld>(time_limit, std::move(listener));
}

}  // namespace thimble
