// The collectives that training needs, built on Communicator::start. All of them are deterministic:
// what is summed is summed in the order of the ranks, in f32, whatever arrives first. With one rank
// they are no-ops.
#pragma once

#include <span>
#include <string>

#include "core/autograd/grad_sink.h"
#include "core/base/exact_sum.h"
#include "core/tensor/tensor.h"
#include "parallel/communicator.h"

namespace thimble {

/// Every rank has entered before any leaves.
void barrier(Communicator& comm, const std::string& subject);

/// Replaces each sum by the sum over all ranks, exactly: the order of the ranks cannot matter.
void all_reduce(Communicator& comm, const std::string& subject, std::span<ExactSum> sums);

/// Replaces values by their sums over all ranks, in the order of the ranks: each rank sums its part
/// of them and sends it to all. Control traffic. On a planning arena nothing is read.
void all_reduce(Communicator& comm, Arena& arena, const std::string& subject,
                std::span<float> values);

/// Gives everyone the bytes of `root`.
void broadcast(Communicator& comm, const std::string& subject, int root, MutableBytes bytes);

/// The first rank's reason, on every rank, where at least one has one; empty: none has. Cut to 512
/// bytes, and with several ranks begins with "rank N: ". Control traffic.
std::string first_reason(Communicator& comm, const std::string& subject, const std::string& mine);

/// The texts of all ranks, in rank order; of any lengths. Control traffic.
std::vector<std::string> all_gather_texts(Communicator& comm, const std::string& subject,
                                          const std::string& mine);

/// Collects one block of the same size from every rank, in rank order; control traffic.
std::vector<std::byte> all_gather_control(Communicator& comm, const std::string& subject,
                                          Bytes mine);

/// A tensor of which each rank holds some rows: rank r has rows [begin[r], begin[r + 1]).
struct RowParts {
  Tensor tensor;
  std::vector<std::int64_t> begin;  // ranks + 1 values
};

/// Starts filling every rank's copy of each tensor with the rows that the others hold.
Completion start_all_gather(Communicator& comm, const OpLabel& label,
                            std::span<const RowParts> parts);

struct ReduceOptions {
  DType comm_dtype = DType::kBF16;  // in which contributions are sent
  /// Sums are the transport's own (Communicator::start_sum): fewer buffers, and perhaps faster, but
  /// in its order, and rounded to `comm_dtype` as often as it likes.
  bool by_transport = false;
};

/// A reduce-scatter under way: in the communication dtype of the gradients out, everybody's pieces
/// of this rank's rows in.
class [[nodiscard]] RowReduction {
 public:
  /// `parts`: each rank's own contribution to all rows, in the communication dtype (it is sent as
  /// it lies) or another one (it is converted first). The tensors are held until finish().
  RowReduction(Communicator& comm, Arena& arena, const OpLabel& label,
               std::span<const RowParts> parts, const ReduceOptions& options);
  RowReduction(RowReduction&&) noexcept = default;
  RowReduction& operator=(RowReduction&&) = delete;  // what it waits for would lose its buffers

  /// Waits, and writes (or adds) the sum over the ranks, in their order and in f32 (or as the
  /// transport does), of this rank's rows of part i to targets[i]. The dtype of the targets is f32
  /// or the communication dtype; accumulating needs f32.
  void finish(std::span<const GradTarget> targets);
  /// Bytes of communication buffers that it holds.
  std::int64_t buffer_bytes() const { return buffer_bytes_; }

 private:
  struct Part {
    Tensor own;       // in the communication dtype of this rank's contribution to its own rows
    Tensor received;  // [ranks - 1, rows, ...] in rank order, or [rows, ...] summed by transport
  };
  int rank_;
  bool by_transport_;
  std::vector<Part> parts_;
  std::vector<Tensor> sent_;  // in the communication dtype
  std::int64_t buffer_bytes_ = 0;
  Completion exchange_;  // after what it reads and fills, so that it ends first
};

}  // namespace thimble
