#include "cuda/kernels/gemm_lt.h"

#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "deploykit/error.h"

namespace deploykit::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw Error("device", std::string("cuBLASLt ") + what + ": " + cublasLtGetStatusString(status));
  }
}
void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw Error("device", std::string("cuBLASLt ") + what + ": " + cudaGetErrorString(status));
}

using Key = std::tuple<int, int64_t, int64_t, int64_t, bool, bool, bool>;

Key key_of(const GemmShape& s) {
  return {static_cast<int>(s.dtype), GemmLt::bucket(s.m), s.n, s.k, s.y_f32, s.accumulate, s.bias};
}

// The descriptors of one product. In the library's column-major words: y^T [n, m] = w^T x^T.
struct Product {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;

  Product(const GemmShape& s, int64_t m, int64_t x_stride, int64_t y_stride, const void* bias) {
    const cudaDataType_t type = s.dtype == DType::f16 ? CUDA_R_16F : CUDA_R_16BF;
    check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
          "transpose");
    if (s.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue),
            "epilogue");
      check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "bias");
      check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type), "bias");
    }
    const auto u64 = [](int64_t v) { return static_cast<uint64_t>(v); };
    check(cublasLtMatrixLayoutCreate(&w, type, u64(s.k), u64(s.n), s.k), "layout");
    check(cublasLtMatrixLayoutCreate(&x, type, u64(s.k), u64(m), x_stride), "layout");
    check(cublasLtMatrixLayoutCreate(&y, s.y_f32 ? CUDA_R_32F : type, u64(s.n), u64(m), y_stride), "layout");
  }
  ~Product() {
    if (y != nullptr) cublasLtMatrixLayoutDestroy(y);
    if (x != nullptr) cublasLtMatrixLayoutDestroy(x);
    if (w != nullptr) cublasLtMatrixLayoutDestroy(w);
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
};

std::vector<cublasLtMatmulHeuristicResult_t> candidates_of(cublasLtHandle_t handle, const Product& p,
                                                           int64_t workspace_bytes, int count) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const uint64_t bytes = static_cast<uint64_t>(workspace_bytes);
  cublasStatus_t status =
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(count));
  int found = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(handle, p.operation, p.w, p.x, p.y, p.y, preference, count, results.data(),
                                            &found);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, "heuristic");
  results.resize(static_cast<size_t>(found));
  results.erase(
      std::remove_if(results.begin(), results.end(), [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; }),
      results.end());
  if (results.empty()) throw Error("unsupported", "cuBLASLt has no algorithm for this product");
  return results;
}

}  // namespace

struct GemmLt::State {
  cublasLtHandle_t handle = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> chosen;

  cublasStatus_t multiply(const GemmShape& s, const Product& p, const cublasLtMatmulAlgo_t& algorithm, const void* x,
                          const void* w, void* y, void* workspace, int64_t workspace_bytes, cudaStream_t stream) {
    const float alpha = 1.0f, beta = s.accumulate ? 1.0f : 0.0f;
    return cublasLtMatmul(handle, p.operation, &alpha, w, p.w, x, p.x, &beta, y, p.y, y, p.y, &algorithm, workspace,
                          static_cast<size_t>(workspace_bytes), stream);
  }
};

GemmLt::GemmLt() : state_(new State) { check(cublasLtCreate(&state_->handle), "create"); }
GemmLt::~GemmLt() {
  if (state_->handle != nullptr) cublasLtDestroy(state_->handle);
}

int64_t GemmLt::bucket(int64_t m) {
  const auto up = [m](int64_t unit) { return (m + unit - 1) / unit * unit; };
  if (m <= 2) return m;
  if (m <= 4) return 4;
  if (m <= 64) return up(8);
  if (m <= 256) return up(32);
  if (m <= 1024) return up(64);
  return up(512);
}

double GemmLt::plan(const GemmShape& shape, const void* x, int64_t x_stride, const void* w, void* y, int64_t y_stride,
                    const void* bias, void* workspace, int64_t workspace_bytes, int candidates, cudaStream_t stream) {
  const Product product(shape, bucket(shape.m), x_stride, y_stride, bias);
  const auto list = candidates_of(state_->handle, product, workspace_bytes, candidates);
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  double best = 0.0;
  const cublasLtMatmulHeuristicResult_t* winner = nullptr;
  for (const auto& candidate : list) {
    const int runs = shape.m > 1024 ? 3 : 5;
    double fastest = 0.0;
    bool ok = true;
    for (int i = 0; ok && i <= runs; ++i) {
      // Weights of a model aren't in L2 when their turn comes: push them out by writing the workspace.
      check(cudaMemsetAsync(workspace, 0, static_cast<size_t>(workspace_bytes), stream), "memset");
      check(cudaEventRecord(begin, stream), "event");
      ok = state_->multiply(shape, product, candidate.algo, x, w, y, workspace, workspace_bytes, stream) ==
           CUBLAS_STATUS_SUCCESS;
      check(cudaEventRecord(end, stream), "event");
      check(cudaEventSynchronize(end), "candidate");
      float ms = 0.0f;
      check(cudaEventElapsedTime(&ms, begin, end), "event");
      if (i == 1 || (i > 1 && ms * 1e3 < fastest)) fastest = ms * 1e3;
    }
    if (ok && (winner == nullptr || fastest < best)) best = fastest, winner = &candidate;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  if (winner == nullptr) throw Error("unsupported", "no algorithm of cuBLASLt ran for this product");
  state_->chosen[key_of(shape)] = winner->algo;
  return best;
}

void GemmLt::run(const GemmShape& shape, const void* x, int64_t x_stride, const void* w, void* y, int64_t y_stride,
                 const void* bias, void* workspace, int64_t workspace_bytes, cudaStream_t stream) {
  const Product product(shape, shape.m, x_stride, y_stride, bias);
  auto found = state_->chosen.find(key_of(shape));
  if (found == state_->chosen.end()) {
    const auto list = candidates_of(state_->handle, product, workspace_bytes, 1);
    found = state_->chosen.emplace(key_of(shape), list.front().algo).first;
  }
  check(state_->multiply(shape, product, found->second, x, w, y, workspace, workspace_bytes, stream), "product");
}

}  // namespace deploykit::cuda
