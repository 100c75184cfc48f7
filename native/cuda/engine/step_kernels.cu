#include "cuda/engine/step_kernels.h"

#include "cuda/engine/device.h"
#include "deploykit/step.h"

namespace deploykit::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void apply_admits(const uint8_t* message, StepHeader header, Rows rows) {
  const AdmitRecord& admit = reinterpret_cast<const AdmitRecord*>(message + header.admits_at)[blockIdx.x];
  const int32_t* tokens = reinterpret_cast<const int32_t*>(message + header.tokens_at);
  int32_t* pool = rows.tokens + static_cast<int64_t>(admit.row) * rows.session_stride;
  for (int32_t i = threadIdx.x; i < admit.known; i += blockDim.x) pool[i] = tokens[admit.token_offset + i];
  for (int32_t i = threadIdx.x; i < admit.sampling.num_stops; i += blockDim.x) {
    rows.stops[static_cast<int64_t>(admit.row) * kMaxStops + i] = tokens[admit.stops_offset + i];
  }
  const int32_t extras = 2 * admit.sampling.num_bias + admit.sampling.num_bad;
  for (int32_t i = threadIdx.x; i < extras && !admit.sampling.on_host; i += blockDim.x) {
    rows.extras[static_cast<int64_t>(admit.row) * kMaxExtras + i] =
        tokens[admit.stops_offset + admit.sampling.num_stops + i];
  }
  if (admit.sampling.slot >= 0) {
    uint32_t* counts = rows.counts + static_cast<int64_t>(admit.sampling.slot) * rows.vocab;
    for (int32_t i = threadIdx.x; i < rows.vocab; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    for (int32_t i = threadIdx.x; i < admit.known; i += blockDim.x) {
      const int32_t token = tokens[admit.token_offset + i];
      if (i < admit.prompt_len) {
        atomicOr(counts + token, 0x80000000u);
      } else {
        atomicAdd(counts + token, 1u);
      }
    }
  }
  if (threadIdx.x == 0) {
    rows.computed[admit.row] = admit.computed;
    rows.known[admit.row] = admit.known;
    rows.prompt_len[admit.row] = admit.prompt_len;
    rows.limit[admit.row] = admit.limit;
    rows.finished[admit.row] = 0;
    rows.sampling[admit.row] = admit.sampling;
  }
}

__global__ void apply_writes(const uint8_t* message, StepHeader header, Rows rows) {
  const int32_t index = blockIdx.x * blockDim.x + threadIdx.x;
  const auto* blocks = reinterpret_cast<const BlockWrite*>(message + header.block_writes_at);
  const auto* tokens = reinterpret_cast<const TokenWrite*>(message + header.token_writes_at);
  if (index < header.num_block_writes) {
    const BlockWrite write = blocks[index];
    rows.blocks[static_cast<int64_t>(write.row) * rows.max_blocks + write.index] = write.block;
  }
  if (index < header.num_token_writes) {
    const TokenWrite write = tokens[index];
    rows.tokens[static_cast<int64_t>(write.row) * rows.session_stride + write.position] = write.token;
    rows.known[write.row] = write.position + 1;
    rows.finished[write.row] = write.finished;
    const int32_t slot = rows.sampling[write.row].slot;  // a row writes one token a message
    if (slot >= 0) rows.counts[static_cast<int64_t>(slot) * rows.vocab + write.token] += 1;
  }
}

__global__ void prepare_slices(StepArrays step, Rows rows) {
  const int32_t slice = blockIdx.y;
  const int32_t row = step.rows[slice];
  const int32_t count = step.counts[slice], first = step.cu[slice];
  const int32_t start = rows.computed[row];
  const int32_t* pool = rows.tokens + static_cast<int64_t>(row) * rows.session_stride;
  for (int32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    step.token_ids[first + i] = pool[start + i];
    step.positions[first + i] = start + i;
    step.token_rows[first + i] = row;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    step.seq_lens[slice] = start + count;
    step.starts[slice] = start;
    step.last[slice] = first + count - 1;
  }
}

__global__ void prepare_single(StepArrays step, Rows rows, int32_t slices) {
  const int32_t slice = blockIdx.x * blockDim.x + threadIdx.x;
  if (slice >= slices) return;
  const int32_t row = step.rows[slice];
  // A row that ended in an earlier iteration has no block for a further token.
  const bool idle = row == rows.dummy || rows.finished[row] != 0;
  const int32_t start = idle ? 0 : rows.computed[row];
  step.token_ids[slice] = rows.tokens[static_cast<int64_t>(row) * rows.session_stride + start];
  step.positions[slice] = start;
  step.token_rows[slice] = idle ? -1 : row;
  step.starts[slice] = start;
  step.seq_lens[slice] = start + 1;
  step.last[slice] = slice;
  step.cu[slice] = slice;
  if (slice == slices - 1) step.cu[slices] = slices;
}

__global__ void finish_slices(StepArrays step, Rows rows, const int32_t* sampled, SliceResult* results,
                              int32_t slices) {
  const int32_t slice = blockIdx.x * blockDim.x + threadIdx.x;
  if (slice >= slices) return;
  const int32_t row = step.rows[slice];
  SliceResult result{-1, kFinishNone, 0, 0};
  if (row != rows.dummy && !rows.finished[row]) {
    rows.computed[row] = step.seq_lens[slice];
    int32_t known = rows.known[row];
    const RowSampling& sampling = rows.sampling[row];
    if ((step.flags[slice] & (kWantSample | kWantDeferred)) == kWantSample && !sampling.on_host) {
      const int32_t token = sampled[slice];
      if (token < 0) {
        result.error = -token;
        rows.finished[row] = 1;
      } else {
        rows.tokens[static_cast<int64_t>(row) * rows.session_stride + known] = token;
        rows.known[row] = ++known;
        result.token = token;
        if (known >= rows.limit[row]) result.finish = kFinishLength;
        const int32_t* stops = rows.stops + static_cast<int64_t>(row) * kMaxStops;
        for (int32_t i = 0; i < sampling.num_stops; ++i) {
          if (stops[i] == token) result.finish = kFinishStop;
        }
        rows.finished[row] = result.finish != kFinishNone;
      }
    }
    result.known = known;
  }
  results[slice] = result;
}

int32_t blocks_for(int64_t n) { return static_cast<int32_t>((n + kThreads - 1) / kThreads); }

}  // namespace

void apply_message(const uint8_t* message, const StepHeader& header, const Rows& rows, cudaStream_t stream) {
  if (header.num_admits > 0) {
    apply_admits<<<header.num_admits, kThreads, 0, stream>>>(message, header, rows);
    DK_CUDA(cudaGetLastError());
  }
  const int32_t writes =
      header.num_block_writes > header.num_token_writes ? header.num_block_writes : header.num_token_writes;
  if (writes > 0) {
    apply_writes<<<blocks_for(writes), kThreads, 0, stream>>>(message, header, rows);
    DK_CUDA(cudaGetLastError());
  }
}

void prepare_step(const StepArrays& step, const Rows& rows, int32_t slices, int32_t max_count, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks_for(max_count)), static_cast<unsigned>(slices));
  prepare_slices<<<grid, kThreads, 0, stream>>>(step, rows);
  DK_CUDA(cudaGetLastError());
}

void prepare_decode(const StepArrays& step, const Rows& rows, int32_t slices, cudaStream_t stream) {
  prepare_single<<<blocks_for(slices), kThreads, 0, stream>>>(step, rows, slices);
  DK_CUDA(cudaGetLastError());
}

void finish_step(const StepArrays& step, const Rows& rows, const int32_t* sampled, SliceResult* results,
                 int32_t slices, cudaStream_t stream) {
  finish_slices<<<blocks_for(slices), kThreads, 0, stream>>>(step, rows, sampled, results, slices);
  DK_CUDA(cudaGetLastError());
}

}  // namespace deploykit::cuda
