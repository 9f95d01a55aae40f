// How ranks exchange bytes. One operation carries everything: each rank hands every other rank some
// pieces and says where the pieces it gets belong (a personalised all-to-all of any sizes);
// collectives.h builds gathers, reductions and barriers on it, so that a transport has little to
// get wrong. Knows no parameter, and a dtype only where a transport is asked to sum by itself.
//
// All ranks call the same operations in the same order. An operation runs while the caller
// computes; its completion says when it has ended, and carries its error: SystemError if it failed
// or took longer than the communicator's time limit. Results on a GPU are for what is started there
// after Completion::follow(), for the host after wait().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/completion.h"
#include "core/base/dtype.h"

namespace thimble {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

/// What one rank gives and gets. Piece i sent by a to b fills piece i that b receives from a: both
/// have the same size.
struct Exchange {
  std::vector<std::vector<Bytes>> send;  // [to rank]; the entry of the rank itself must be empty
  std::vector<std::vector<MutableBytes>> receive;  // [from rank]

  explicit Exchange(int ranks)
      : send(static_cast<std::size_t>(ranks)), receive(static_cast<std::size_t>(ranks)) {}
};

/// Elements of which every rank has a contribution to all, and rank r gets the sums of
/// [begin[r], begin[r + 1]).
struct RowSum {
  Bytes all;
  MutableBytes mine;
  std::vector<std::int64_t> begin;  // ranks + 1 values
  DType dtype = DType::kF32;
};

/// Names an operation in errors and flight records: "reduce" of "block 12".
struct OpLabel {
  const char* operation = "exchange";
  std::string subject;
};

/// "reduce_scatter #7 of layers.0", for messages.
std::string describe_operation(std::int64_t number, const OpLabel& label);

/// A rank as an index.
inline std::size_t rank_index(int rank) {
  return static_cast<std::size_t>(rank);
}

/// Between processes, or between GPUs, whose operations are counted apart.
enum class OpChannel : std::uint8_t { kProcesses, kGpus };

/// An operation of this rank starts, or has ended.
struct OpEvent {
  OpChannel channel = OpChannel::kProcesses;
  std::int64_t number = 0;  // within its channel
  const OpLabel& label;
  std::int64_t bytes = 0;  // sent
  bool ended = false;
};
/// Called by whichever thread makes the operation; for one channel, starts by one thread and ends
/// by one thread.
using OpListener = std::function<void(const OpEvent&)>;

enum class Purpose : std::uint8_t { kTensor, kControl };

/// What this rank has sent so far, by purpose: tensors can be compared with a plan, control
/// messages are apart. And the time operations on tensors took, and how much of it this rank spent
/// waiting for them.
struct Traffic {
  std::int64_t tensor_bytes = 0;
  std::int64_t control_bytes = 0;
  std::int64_t tensor_operations = 0;
  std::int64_t busy_ns = 0;
  std::int64_t waited_ns = 0;
  void count(Purpose purpose, const Exchange& exchange);
  void count(const std::vector<RowSum>& sums);
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Starts an operation; sizes that disagree between two ranks end it with an error on the
  /// receiver.
  virtual Completion start(const OpLabel& label, Purpose purpose, Exchange exchange) = 0;
  /// Starts sums by what the transport has for it: in its own order and precision, which may depend
  /// on the ranks' number and place. Throws UserError if it has nothing.
  virtual Completion start_sum(const OpLabel& label, std::vector<RowSum> sums);
  /// How long an operation may take from now on before it fails and names what it waited for.
  virtual void set_time_limit(std::chrono::milliseconds limit) = 0;
  /// Makes every operation of every rank fail with `reason`, now and from now on.
  virtual void abort(const std::string& reason) noexcept = 0;
  virtual Traffic traffic() const = 0;
  /// Why every operation fails now; empty: none has to.
  virtual std::string failure() const { return {}; }
  /// Who is told about its operations; may be empty.
  virtual OpListener listener() const { return {}; }
};

/// What moves tensors between GPUs beside `control`, if the build has it; each rank has a GPU of
/// its own.
using GpuCommunicatorFactory = std::unique_ptr<Communicator> (*)(Communicator& control);
void register_gpu_communicator(GpuCommunicatorFactory make);
/// Null if nothing was registered.
GpuCommunicatorFactory gpu_communicator();

/// The communicator of one rank: nothing moves.
class SingleCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  Completion start(const OpLabel&, Purpose, Exchange) override { return {}; }
  void set_time_limit(std::chrono::milliseconds) override {}
  void abort(const std::string&) noexcept override {}
  Traffic traffic() const override { return {}; }
};

}  // namespace thimble
