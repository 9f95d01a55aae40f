// The end of asynchronous work: on a stream, between a device and the host, with files, between
// ranks. One type for all of them, so that a caller that waits need not know what for.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

namespace thimble {

/// Asynchronous work, whose buffers must stay until it has ended. Default-made and moved-from
/// completions have no work and are done. Used by one thread at a time.
class [[nodiscard]] Completion {
 public:
  /// What a kind of work does when it is asked. Nobody else holds it; what workers use may be
  /// shared behind it.
  class Work {
   public:
    Work() = default;
    virtual ~Work() = default;
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

    /// Returns when all of the work has ended; throws its error. Called once, as the last function.
    virtual void wait() = 0;
    /// Whether wait() would return, or throw, without blocking. May do what is left to be done
    /// here, so that whoever asks again and again sees it end. Never throws.
    virtual bool done() noexcept = 0;
    /// Completion::follow() where the host can go on; false if it has to wait.
    virtual bool follow() { return false; }
    /// Whether an error of this work fails all later work too. Such an error is reported by the
    /// later work, so it is not logged when nobody reads it here.
    virtual bool error_stays() const { return false; }
  };

  Completion() = default;
  explicit Completion(std::unique_ptr<Work> work) : work_(std::move(work)) {}
  Completion(Completion&& other) noexcept = default;
  /// Waits for the work that this completion had, whose buffers may be freed next; its error is
  /// logged if it would be lost.
  Completion& operator=(Completion&& other) noexcept;
  /// Waits as the assignment does.
  ~Completion() { finish(); }

  /// Returns when all of the work has ended, and throws its error; a second wait() returns at once.
  void wait();
  /// Whether wait() would return, or throw, without blocking.
  bool done() const { return work_ == nullptr || work_->done(); }
  /// Orders later work of the device after this work without blocking the host, where that is
  /// possible. Copies to and from a device: what the calling thread starts on the device from now
  /// on runs after the copy; for the host, whose memory it uses, the copy is not done. Exchanges
  /// between GPUs: the same, and since all their memory is the device's, they are done. Other work:
  /// wait().
  void follow();

 private:
  void finish() noexcept;
  std::unique_ptr<Work> work_;
};

/// Waits for all of them, then throws the first error; later ones are logged.
void wait_all(std::span<Completion> all);

/// Work in parts that other threads do, shared by them and its Completion.
class PartsUnderWay {
 public:
  explicit PartsUnderWay(std::int64_t parts) : pending_(parts) {}

  /// Counts one part as ended; the first error (null: none) is kept.
  void end_part(std::exception_ptr error) noexcept;
  /// Whether a part has failed already, so that the rest need not run.
  bool failed() const;
  bool done() const;
  /// Returns when no part is pending; throws the error, once.
  void wait();

 private:
  mutable std::mutex mutex_;
  std::condition_variable all_ended_;
  std::int64_t pending_;
  std::exception_ptr error_;
};

/// Done when all parts have ended.
Completion completion_of(std::shared_ptr<PartsUnderWay> parts);

}  // namespace thimble
