// Every kind of work that a Completion can be of, but those that need a GPU or several processes:
// held up, let go, failing.
#pragma once

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "core/base/completion.h"
#include "core/base/error.h"
#include "core/device/arena.h"
#include "core/device/cuda/runtime.h"
#include "core/device/stream.h"
#include "core/io/file_engine.h"
#include "parallel/local_world.h"
#include "parallel/staged_communicator.h"
#include "tests/io/temp_dir.h"

namespace thimble {

/// One object for one start.
class KindOfWork {
 public:
  KindOfWork() = default;
  virtual ~KindOfWork() = default;
  KindOfWork(const KindOfWork&) = delete;
  KindOfWork& operator=(const KindOfWork&) = delete;

  virtual Completion start() = 0;
  /// Lets it end, from any thread; work that cannot be held up may have ended before.
  virtual void release() {}
  virtual bool is_held_up() const { return true; }
  virtual bool has_arrived() = 0;

  /// Its error has `words`.
  virtual Completion start_failing() = 0;
  virtual std::string words() const = 0;
  /// Whether whatever comes after it fails with it.
  virtual bool error_stays() const { return false; }
};

class WorkOfStream final : public KindOfWork {
 public:
  Completion start() override {
    return stream_.run([this] {
      gate_.get_future().wait();
      value_ = 1;
    });
  }
  void release() override { gate_.set_value(); }
  bool has_arrived() override { return value_ == 1; }
  Completion start_failing() override {
    return stream_.run([] { throw SystemError("the stream's work"); });
  }
  std::string words() const override { return "the stream's work"; }

 private:
  std::atomic<int> value_ = 0;
  std::promise<void> gate_;
  Stream stream_{"test"};
};

class WorkOfFiles final : public KindOfWork {
 public:
  explicit WorkOfFiles(FileEngineKind kind) : engine_(make_file_engine({.kind = kind})) {}
  Completion start() override { return engine_->start_write(file_, 0, data_); }
  bool is_held_up() const override { return false; }
  bool has_arrived() override { return file_.size() == static_cast<std::int64_t>(data_.size()); }
  Completion start_failing() override {
    return engine_->start_read(file_, 0, std::span(data_).first(10));
  }
  std::string words() const override { return "the file ends at byte 0"; }

 private:
  testing::TempDir dir_;
  File file_ = File::create(dir_ / "a");
  std::vector<std::byte> data_{9'000'000};
  std::unique_ptr<FileEngine> engine_;
};

/// Of the emulator, which copies when somebody waits or asks a second time.
class WorkOfDevice final : public KindOfWork {
 public:
  WorkOfDevice() : at_(memory().allocate(4096)) { memory().fill(at_, 0, sizeof(int)); }
  ~WorkOfDevice() override {
    if (recording_) gpu::driver().graphs->release(gpu::driver().graphs->end());
    memory().release(at_, 4096);
  }
  Completion start() override { return memory().start_from_host(at_, &sent_, sizeof(int)); }
  bool has_arrived() override {
    int got = 0;
    memory().to_host(&got, at_, sizeof(int));
    return got == sent_;
  }
  // What is only recorded cannot be waited for.
  Completion start_failing() override {
    Completion copy = start();
    gpu::driver().graphs->begin();
    recording_ = true;
    return copy;
  }
  std::string words() const override { return "the host waits for what is only recorded"; }

 private:
  static const DeviceMemory& memory() { return *gpu::driver().memory; }
  void* at_;
  int sent_ = 7;
  bool recording_ = false;
};

/// Between this thread and another one.
class WorkOfRanks : public KindOfWork {
 public:
  ~WorkOfRanks() override {
    if (other_.joinable()) other_.join();
  }
  Completion start() override { return start_with(sizeof(int)); }
  void release() override { gate_.set_value(); }
  bool has_arrived() override { return got_[0] == 7; }
  // The other one sends more than was expected.
  Completion start_failing() override {
    Completion exchange = start_with(2 * sizeof(int));
    release();
    return exchange;
  }
  std::string words() const override { return "other sizes than it expects"; }
  bool error_stays() const override { return true; }

 protected:
  virtual Communicator& here() { return *here_; }
  virtual Bytes sent() { return std::as_bytes(std::span(sent_)); }
  virtual MutableBytes place() { return std::as_writable_bytes(std::span(got_)); }
  static Exchange exchange_with(std::size_t other, Bytes out, MutableBytes in) {
    Exchange exchange(2);
    exchange.send[other] = {out};
    exchange.receive[other] = {in};
    return exchange;
  }

  LocalWorld world_{2, std::chrono::seconds(20)};
  std::unique_ptr<Communicator> here_ = world_.communicator(0);

 private:
  Completion start_with(std::size_t bytes_of_the_other) {
    other_ = std::thread([this, bytes_of_the_other] {
      gate_.get_future().wait();
      const std::array<int, 2> out{7, 7};
      std::array<int, 1> in{};
      const auto there = world_.communicator(1);
      try {
        there
            ->start({"exchange", "test"}, Purpose::kTensor,
                    exchange_with(0, std::as_bytes(std::span(out)).first(bytes_of_the_other),
                                  std::as_writable_bytes(std::span(in))))
            .wait();
      } catch (const std::exception&) {  // this rank's error too
      }
    });
    return here().start({"exchange", "test"}, Purpose::kTensor, exchange_with(1, sent(), place()));
  }

  std::array<int, 1> sent_{5}, got_{};
  std::promise<void> gate_;
  std::thread other_;
};

/// The same with memory of the emulated GPU on this side.
class WorkOfStagedRanks final : public WorkOfRanks {
 public:
  WorkOfStagedRanks() {
    register_gpu(gpu::driver());
    arena_ = Arena::make_gpu(1 << 20, 1 << 20);
    sent_ = arena_->reserve(MemoryTag::kComm, sizeof(int), "sent");
    place_ = arena_->reserve(MemoryTag::kComm, sizeof(int), "received");
    comm_ = std::make_unique<StagedCommunicator>(*here_, *arena_);
  }
  bool has_arrived() override {
    int got = 0;
    gpu::driver().memory->to_host(&got, place_.data(), sizeof(int));
    return got == 7;
  }

 private:
  Communicator& here() override { return *comm_; }
  Bytes sent() override { return {static_cast<const std::byte*>(sent_.data()), sizeof(int)}; }
  MutableBytes place() override { return {static_cast<std::byte*>(place_.data()), sizeof(int)}; }

  std::unique_ptr<Arena> arena_;
  Reservation sent_, place_;
  std::unique_ptr<StagedCommunicator> comm_;
};

struct NamedKind {
  const char* name;
  std::function<std::unique_ptr<KindOfWork>()> make;
};

inline void PrintTo(const NamedKind& kind, std::ostream* out) {
  *out << kind.name;
}

inline std::vector<NamedKind> kinds_of_work() {
  return {
      {"stream", [] { return std::make_unique<WorkOfStream>(); }},
      {"io_uring", [] { return std::make_unique<WorkOfFiles>(FileEngineKind::kUring); }},
      {"file_threads", [] { return std::make_unique<WorkOfFiles>(FileEngineKind::kThreads); }},
      {"device_copy", [] { return std::make_unique<WorkOfDevice>(); }},
      {"ranks", [] { return std::make_unique<WorkOfRanks>(); }},
      {"staged_ranks", [] { return std::make_unique<WorkOfStagedRanks>(); }},
  };
}

}  // namespace thimble
