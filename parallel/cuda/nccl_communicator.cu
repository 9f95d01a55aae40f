#include <cuda_runtime.h>
#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "core/base/error.h"
#include "core/device/cuda/runtime.h"
#include "parallel/collectives.h"
#include "parallel/cuda/nccl_communicator.h"

namespace thimble {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPoll = std::chrono::milliseconds(20);

void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw_system("CUDA: {}: {}", what, cudaGetErrorString(error));
}

std::string text_of(const char* what, ncclResult_t result) {
  return fmt::format("NCCL: {}: {}", what, ncclGetErrorString(result));
}

// Two moments on the stream of the communicator.
struct Events {
  cudaEvent_t begin = nullptr, end = nullptr;
  Events() {
    check_cuda(cudaEventCreate(&begin), "cudaEventCreate");
    check_cuda(cudaEventCreate(&end), "cudaEventCreate");
  }
  ~Events() {
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
};

struct Operation {
  OpLabel label;
  std::int64_t number = 0, bytes = 0;
  Clock::time_point deadline;
  Events events;
  std::string name() const {
    return fmt::format("{} #{} of {} between GPUs", label.operation, number, label.subject);
  }
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& control, std::chrono::milliseconds time_limit)
      : control_(control), listener_(control.listener()), time_limit_(time_limit) {
    check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
               "cudaStreamCreateWithFlags");
    ncclUniqueId id;
    std::memset(&id, 0, sizeof(id));
    if (rank() == 0) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    broadcast(control_, "the NCCL id", 0, std::as_writable_bytes(std::span(&id, 1)));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    require(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), "ncclCommInitRankConfig");
    settle("ncclCommInitRankConfig", Clock::now() + time_limit_);
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclCommunicator() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    watcher_.join();
    const bool idle =
        pending_.empty() || cudaEventQuery(pending_.back()->events.end) == cudaSuccess;
    if (comm_ != nullptr) idle ? ncclCommDestroy(comm_) : ncclCommAbort(comm_);
    cudaStreamDestroy(stream_);
  }

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }

  Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) override {
    if (purpose == Purpose::kControl) return control_.start(label, purpose, std::move(exchange));
    Traffic traffic;
    traffic.count(purpose, exchange);
    return run(label, traffic, [&] {
      for (int r = 0; r < size(); ++r) {
        for (const Bytes piece : exchange.send[static_cast<std::size_t>(r)]) {
          if (!piece.empty())
            require(ncclSend(piece.data(), piece.size(), ncclInt8, r, comm_, stream_), "ncclSend");
        }
        for (const MutableBytes piece : exchange.receive[static_cast<std::size_t>(r)]) {
          if (!piece.empty())
            require(ncclRecv(piece.data(), piece.size(), ncclInt8, r, comm_, stream_), "ncclRecv");
        }
      }
    });
  }

  // ReduceScatter where every rank has as many elements, otherwise a reduction to each rank.
  Completion start_sum(const OpLabel& label, std::vector<RowSum> sums) override {
    Traffic traffic;
    traffic.count(sums);
    return run(label, traffic, [&] {
      for (const RowSum& sum : sums) {
        const ncclDataType_t type = sum.dtype == DType::kF32 ? ncclFloat32 : ncclBfloat16;
        const auto count = [&](int r) {
          const auto at = static_cast<std::size_t>(r);
          return static_cast<std::size_t>(sum.begin[at + 1] - sum.begin[at]);
        };
        bool even = true;
        for (int r = 1; r < size(); ++r) even = even && count(r) == count(0);
        if (even) {
          require(ncclReduceScatter(sum.all.data(), sum.mine.data(), count(0), type, ncclSum, comm_,
                                    stream_),
                  "ncclReduceScatter");
          continue;
        }
        for (int r = 0; r < size(); ++r) {
          const auto begin = static_cast<std::size_t>(sum.begin[static_cast<std::size_t>(r)]);
          if (count(r) == 0) continue;
          require(
              ncclReduce(sum.all.data() + begin * static_cast<std::size_t>(dtype_size(sum.dtype)),
                         sum.mine.data(), count(r), type, ncclSum, r, comm_, stream_),
              "ncclReduce");
        }
      }
    });
  }

  void set_time_limit(std::chrono::milliseconds limit) override {
    control_.set_time_limit(limit);
    const std::lock_guard lock(mutex_);
    time_limit_ = limit;
  }

  std::string failure() const override {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  void abort(const std::string& reason) noexcept override { fail(reason); }

  Traffic traffic() const override {
    Traffic all = control_.traffic();
    const std::lock_guard lock(mutex_);
    all.tensor_bytes += traffic_.tensor_bytes;
    all.tensor_operations += traffic_.tensor_operations;
    all.busy_ns += traffic_.busy_ns;
    return all;
  }

 private:
  // The time a GPU waits is not seen here: Traffic::waited_ns stays what the host waited.
  class Waiting final : public Completion::Work {
   public:
    Waiting(NcclCommunicator& owner, std::shared_ptr<Operation> operation)
        : owner_(owner), operation_(std::move(operation)) {}
    // One that is stuck is ended by the watcher.
    void wait() override {
      if (followed_) return;
      const cudaError_t ended = cudaEventSynchronize(operation_->events.end);
      if (std::string reason = owner_.failure(); !reason.empty()) throw SystemError(reason);
      check_cuda(ended, operation_->name().c_str());
    }
    bool error_stays() const override { return true; }
    bool done() noexcept override { return followed_ || gpu::has_happened(operation_->events.end); }
    bool follow() override {
      if (!owner_.failure().empty()) return false;
      followed_ = true;
      check_cuda(cudaStreamWaitEvent(gpu::compute_stream(), operation_->events.end, 0),
                 "cudaStreamWaitEvent");
      return true;
    }

   private:
    NcclCommunicator& owner_;
    std::shared_ptr<Operation> operation_;
    bool followed_ = false;  // all it touches is the GPU's, and in the order of the thread's work
  };

  // Starts what `calls` asks NCCL for, as one operation, behind the thread's work on the GPU.
  template <typename Calls>
  Completion run(const OpLabel& label, const Traffic& traffic, Calls&& calls) {
    auto operation = std::make_shared<Operation>();
    operation->label = label;
    operation->bytes = traffic.tensor_bytes;
    {
      const std::lock_guard lock(mutex_);
      if (!failure_.empty()) throw SystemError(failure_);
      operation->number = number_++;
      operation->deadline = Clock::now() + time_limit_;
      traffic_.tensor_bytes += traffic.tensor_bytes;
      traffic_.tensor_operations += traffic.tensor_operations;
    }
    const std::lock_guard nccl(nccl_mutex_);
    tell(*operation, false);
    check_cuda(cudaEventRecord(operation->events.begin, gpu::compute_stream()), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(stream_, operation->events.begin, 0), "cudaStreamWaitEvent");
    check_cuda(cudaEventRecord(operation->events.begin, stream_), "cudaEventRecord");
    require(ncclGroupStart(), "ncclGroupStart");
    try {
      calls();
    } catch (...) {
      ncclGroupEnd();  // it would stay open for what this thread does next
      throw;
    }
    require(ncclGroupEnd(), "ncclGroupEnd");
    settle(operation->name().c_str(), operation->deadline);
    check_cuda(cudaEventRecord(operation->events.end, stream_), "cudaEventRecord");
    {
      const std::lock_guard lock(mutex_);
      pending_.push_back(operation);
    }
    changed_.notify_all();
    return Completion(std::make_unique<Waiting>(*this, std::move(operation)));
  }

  void tell(const Operation& operation, bool ended) const {
    if (listener_)
      listener_({OpChannel::kGpus, operation.number, operation.label, operation.bytes, ended});
  }

  static void require(ncclResult_t result, const char* what) {
    if (result != ncclSuccess && result != ncclInProgress) throw SystemError(text_of(what, result));
  }

  // Until what was started without blocking has been accepted.
  void settle(const char* what, Clock::time_point deadline) {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (!failure_.empty()) throw SystemError(failure_);
      }
      ncclResult_t state = ncclSuccess;
      require(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
      if (state == ncclSuccess) return;
      require(state, what);
      if (Clock::now() > deadline) throw_system("NCCL: {} took too long", what);
      std::this_thread::yield();
    }
  }

  void fail(const std::string& reason) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_.empty()) return;
      failure_ = reason;
    }
    {
      const std::lock_guard nccl(nccl_mutex_);  // an operation that is being started gives up first
      if (comm_ != nullptr) ncclCommAbort(comm_);  // its kernels end, so that nobody waits for them
      comm_ = nullptr;
    }
    control_.abort(reason);
  }

  // Removes the operations that have ended, oldest first; the reason if one has failed.
  std::string look() {
    if (std::string reason = control_.failure(); !reason.empty()) return reason;
    ncclResult_t nccl = ncclSuccess;
    {
      // Even asking is a use: it may end what the starting thread waits for.
      const std::unique_lock free(nccl_mutex_, std::try_to_lock);
      if (free && comm_ != nullptr) ncclCommGetAsyncError(comm_, &nccl);
    }
    const std::lock_guard lock(mutex_);
    while (!pending_.empty()) {
      const Operation& first = *pending_.front();
      const cudaError_t state = cudaEventQuery(first.events.end);
      if (nccl != ncclSuccess && nccl != ncclInProgress) return text_of(first.name().c_str(), nccl);
      if (state == cudaErrorNotReady) {
        return Clock::now() > first.deadline
                   ? fmt::format("rank {}: {} took longer than its time limit", control_.rank(),
                                 first.name())
                   : "";
      }
      if (state != cudaSuccess)
        return fmt::format("CUDA: {}: {}", first.name(), cudaGetErrorString(state));
      float milliseconds = 0;
      if (cudaEventElapsedTime(&milliseconds, first.events.begin, first.events.end) == cudaSuccess)
        traffic_.busy_ns += static_cast<std::int64_t>(static_cast<double>(milliseconds) * 1e6);
      tell(first, true);
      pending_.pop_front();
    }
    return "";
  }

  void watch() {
    cudaSetDevice(device_);
    std::unique_lock lock(mutex_);
    while (!closing_) {
      if (pending_.empty()) {
        changed_.wait(lock, [&] { return closing_ || !pending_.empty(); });
        continue;
      }
      lock.unlock();
      const std::string reason = look();
      if (!reason.empty()) {
        fail(reason);
        return;
      }
      lock.lock();
      changed_.wait_for(lock, kPoll, [&] { return closing_; });
    }
  }

  Communicator& control_;
  const OpListener listener_;
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  std::mutex nccl_mutex_;  // every use of comm_; taken before mutex_
  ncclComm_t comm_ = nullptr;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::chrono::milliseconds time_limit_;
  std::deque<std::shared_ptr<Operation>> pending_;
  std::string failure_;
  Traffic traffic_;
  std::int64_t number_ = 0;
  bool closing_ = false;
  std::thread watcher_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control,
                                                     std::chrono::milliseconds time_limit) {
  return std::make_unique<NcclCommunicator>(control, time_limit);
}

}  // namespace thimble
